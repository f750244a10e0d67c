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


def refusal(
    method: str,
    *,
    hosts: Sequence[str],
    origins: Sequence[str],
    fetch_site: str | None,
    own: Collection[str],
) -> str | None:
    """Return why a request is not answered, None if it is.

    hosts, origins: the values of these headers. own: the hosts of this server, with its port.
    """
    if len(hosts) != 1 or hosts[0] not in own:
        return f"The host of this page is {' or '.join(own)}."
    if len(origins) > 1 or any(origin != f"http://{hosts[0]}" for origin in origins):
        return "Another site has sent this request."
    if method not in READING and not origins:
        return "A form must be sent by a browser, with the header Origin."
    if fetch_site is not None and fetch_site not in OWN_REQUESTS:
        return "Another site has sent this request. Enter the address of the page yourself."
    return None
