"""The address of the node, packet forwarding, and the firewall table of the cluster."""

from __future__ import annotations

import json
from pathlib import Path

from cluster import paths
from cluster.settings import BRIDGE, FIREWALL_TABLE, NODE_ADDRESS, POD_CIDR
from cluster.shell import run

SYSCTLS = {"net.ipv4.ip_forward": "1"}
_SAVED = paths.STATE / "sysctls.json"


def _file(sysctl: str) -> Path:
    return Path("/proc/sys") / sysctl.replace(".", "/")


def up() -> None:
    """Add the node address to a bridge without members, and masquerade traffic from pods."""
    if run(["ip", "link", "show", BRIDGE], check=False).returncode != 0:
        run(["ip", "link", "add", BRIDGE, "type", "bridge"])
    run(["ip", "address", "replace", f"{NODE_ADDRESS}/32", "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])
    if not _SAVED.exists():
        _SAVED.write_text(json.dumps({name: _file(name).read_text() for name in SYSCTLS}))
    for name, value in SYSCTLS.items():
        _file(name).write_text(value)
    run(
        ["nft", "-f", "-"],
        stdin=f"""
table ip {FIREWALL_TABLE}
delete table ip {FIREWALL_TABLE}
table ip {FIREWALL_TABLE} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {POD_CIDR} ip daddr != {{ {POD_CIDR}, {NODE_ADDRESS} }} masquerade
  }}
}}
""",
    )


def down() -> None:
    """Revert the changes of :func:`up`."""
    run(["nft", "delete", "table", "ip", FIREWALL_TABLE], check=False)
    run(["ip", "link", "delete", BRIDGE], check=False)
    if _SAVED.exists():
        for name, value in json.loads(_SAVED.read_text()).items():
            _file(name).write_text(value)
        _SAVED.unlink()
