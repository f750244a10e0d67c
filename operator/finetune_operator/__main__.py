"""``python -m finetune_operator --config FILE [--port N]``."""

import signal
import sys


def main() -> int:
    """Run the operator; return the exit code."""
    # The first process of a container ignores a SIGTERM that it has no handler for, and the
    # operator's own is there only after all imports and the first requests.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    from finetune_operator import manager

    return manager.main()


if __name__ == "__main__":
    sys.exit(main())
