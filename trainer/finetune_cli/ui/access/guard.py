"""Which requests are answered, by their headers, and which headers each response has. Pure.

A page of another site can make a browser send requests to this machine. It cannot change the
headers Host, Origin and Sec-Fetch-Site of them: a host name that was bound to 127.0.0.1 for an
attack (DNS rebinding) is in Host, and the other site is in Origin.
"""

from collections.abc import Collection, Mapping, Sequence

POLICY = {
    "default-src": "'none'",
    "base-uri": "'none'",
    "connect-src": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
    "img-src": "'self'",
    "script-src": "'self'",
    "style-src": "'self'",
}
HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # With no-referrer, browsers would write null into the header Origin of the forms.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every response. CSP without 'unsafe-inline': neither scripts nor styles in a page."""
READING = ("GET", "HEAD")
OWN_REQUESTS = ("same-origin", "none")
"""Sec-Fetch-Site of a request that a page of this server, or the user, has made."""

LINK = {"Mode": "navigate", "Dest": "document"}
"""The headers Sec-Fetch of a page that replaces the one in a tab: the other site cannot read it."""


def fetch(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return what a browser says about the sender of a request, by the rest of the headers' names.

    headers: of the request, whatever their case.
    """
    values = {name: headers.get(f"Sec-Fetch-{name}") for name in ("Site", *LINK)}
    return {name: value for name, value in values.items() if value is not None}


def refusal(
    method: str,
    *,
    hosts: Sequence[str],
    origins: Sequence[str],
    fetch: Mapping[str, str],
    own: Collection[str],
    links: bool,
) -> str | None:
    """Return why a request is not answered, None if it is.

    hosts, origins: the values of these headers. fetch: as the function of this name. own: the
    origins of this server. links: whether links of other sites lead to it, such as the redirect of
    a login.
    """
    by_host = {origin.partition("://")[2]: origin for origin in own}
    if len(hosts) != 1 or hosts[0] not in by_host:
        return f"The host of this page is {' or '.join(by_host)}."
    if len(origins) > 1 or any(origin != by_host[hosts[0]] for origin in origins):
        return "Another site has sent this request."
    if method not in READING and not origins:
        return "A form must be sent by a browser, with the header Origin."
    own_request = fetch.get("Site") in (None, *OWN_REQUESTS)
    link = links and method in READING and fetch.items() >= LINK.items()
    if not own_request and not link:
        return "Another site has sent this request. Enter the address of the page yourself."
    return None
