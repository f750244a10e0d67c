"""Free ports of the loopback interface, for servers that start later.

The ports are below those of outgoing connections, of which one could take a port before its server
starts. Test processes that run at the same time get different ports: the process that got a port
keeps a socket with the name of the port, which the kernel removes at the end of the process.
"""

import random
import socket

FIRST, LAST = 20_000, 29_999
"""Between the usual ports of servers and those of outgoing connections and node ports."""


def free_ports(count: int) -> list[int]:
    """Return different ports on which no process listens."""
    return [free_port() for _ in range(count)]


def free_port() -> int:
    """Return a port on which no process listens, and that no other call returns."""
    while True:
        port = random.randint(FIRST, LAST)
        if _is_free(port) and _claimed(port):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("", port))
        except OSError:
            return False
    return True


def _claimed(port: int) -> bool:
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0port of a test {port}")
    except OSError:
        claim.close()
        return False
    # The descriptor stays open until the process ends.
    claim.detach()
    return True
