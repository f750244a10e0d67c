"""Try a TCP connection to each host:port of the command line (or of given.json).

Result: address → "connected", or the name of the error.
"""

import json
import socket
import sys

SECONDS = 3


def _reach(address: str) -> str:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=SECONDS):
            return "connected"
    except OSError as error:
        return type(error).__name__


def main() -> None:
    """Try every address."""
    addresses = sys.argv[1:]
    if addresses[0].endswith(".json"):
        with open(addresses[0], encoding="utf-8") as file:
            addresses = json.load(file)
    print("RESULT " + json.dumps({address: _reach(address) for address in addresses}))


main()
