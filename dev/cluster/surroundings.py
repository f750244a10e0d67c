"""What our programs, and those that they start, find in their environment."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from cluster.settings import CLUSTER_DOMAIN, NODE_ADDRESS, POD_CIDR, SERVICE_CIDR

SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where Debian's programs are: a shell that is no login shell may not look into all of these."""
OURS = (
    "localhost",
    "127.0.0.1",
    NODE_ADDRESS,
    POD_CIDR,
    SERVICE_CIDR,
    ".svc",
    f".{CLUSTER_DOMAIN}",
)
"""What no proxy of the machine's knows the way to."""


def prepare(environment: MutableMapping[str, str] = os.environ) -> None:
    """Complete the search path, and keep proxies from what is the cluster's own."""
    environment["PATH"] = os.pathsep.join(filter(None, [environment.get("PATH"), SEARCH]))
    kept = environment.get("NO_PROXY") or environment.get("no_proxy")
    environment["NO_PROXY"] = environment["no_proxy"] = ",".join(filter(None, [kept, *OURS]))
