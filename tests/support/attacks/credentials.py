"""Values of a Secret that a job author may name as a credential, and the search for a leak."""

import base64
import hashlib
import json
from urllib.parse import quote

FRAGMENT = 12
"""A leak is this many characters of a value, in any form."""


def random_text(seed: str, length: int) -> str:
    """Return text of base64 characters that looks like a key."""
    digests = (hashlib.sha512(f"{seed}{number}".encode()).digest() for number in range(length))
    text = ""
    while len(text) < length:
        text += base64.b64encode(next(digests)).decode().rstrip("=")
    return text[:length]


def _pem() -> str:
    body = random_text("pem", 1600)
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    return "\n".join(["-----BEGIN PRIVATE KEY-----", *lines, "-----END PRIVATE KEY-----", ""])


KUBECONFIG = f"""\
apiVersion: v1
kind: Config
clusters:
- name: production
  cluster:
    server: https://10.11.12.13:6443
    certificate-authority-data: {random_text("authority", 800)}
users:
- name: administrator
  user:
    client-key-data: {random_text("client", 800)}
    token: {random_text("token", 64)}
"""
TOKEN = f"hf_{random_text('hub', 34)}"

USABLE = {
    "one line": TOKEN,
    "trailing newline": f"{TOKEN}\n",
    "trailing CR LF": f"{TOKEN}\r\n",
    "surrounding white space": f" \t{TOKEN}  ",
}
"""Values that are usable once surrounding white space is removed."""
UNUSABLE = {
    "CR inside": f"{TOKEN[:18]}\r{TOKEN[18:]}",
    "injected header": f"{TOKEN}\r\nX-Injected: {TOKEN}",
    "PEM": _pem(),
    "kubeconfig": KUBECONFIG,
    "not ASCII": f"pässwörter-{TOKEN}",
    "not UTF-8": f"\udcff\udcfe{TOKEN}",
    "escape sequence": f"\x1b[2J{TOKEN}",
    "1 MB": random_text("long", 1 << 20),
    "white space inside": f"{TOKEN} {TOKEN[::-1]}",
}
EMPTY = {"empty": "", "only white space": " \n\t\r\n"}


def forms(value: str) -> dict[str, str]:
    """Return a value in the forms in which libraries print it."""
    data = value.encode("utf-8", "surrogateescape")
    return {
        "raw": value,
        "repr": repr(value),
        "repr of bytes": repr(data),
        "JSON": json.dumps(value),
        "JSON in UTF-8": json.dumps(value, ensure_ascii=False),
        "percent-encoded": quote(data, safe=""),
        "percent-encoded path": quote(data),
        "base64": base64.b64encode(data).decode(),
        "base64 for URLs": base64.urlsafe_b64encode(data).decode(),
        "base64 of user and password": base64.b64encode(b"user:" + data).decode(),
        "one line": " ".join(value.split()),
    }


def leaks(text: str, value: str) -> list[str]:
    """Return the fragments of a value, in any form, that a text contains."""
    windows = {text[at : at + FRAGMENT] for at in range(len(text) - FRAGMENT + 1)}
    return [
        f"{name}: {window!r}"
        for name, form in forms(value).items()
        for window in windows
        if not window.isspace() and window in form
    ]
