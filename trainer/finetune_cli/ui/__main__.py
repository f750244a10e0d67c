"""``python -m finetune_cli.ui``: the page in a pod of the cluster, as the chart runs it."""

import argparse
import socket
import sys
from pathlib import Path

from finetune_cli.errors import CommandFailed
from finetune_cli.ui import pod
from finetune_trainer.errors import Stopped


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m finetune_cli.ui", description=__doc__)
    parser.add_argument("--url", action="append", required=True, metavar="URL")
    parser.add_argument("--certificate-authority", type=Path, required=True, metavar="FILE")
    parser.add_argument("--port", type=int, default=pod.PORT, metavar="N")
    options = parser.parse_args(arguments)
    # For IPv4, too: the address family of pods differs between clusters.
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        with socket.create_server(("", options.port), family=family, dualstack_ipv6=dual) as bound:
            pod.run(options.url, options.certificate_authority, bound)
    except Stopped:
        return 0
    except (CommandFailed, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
