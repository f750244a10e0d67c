"""``python -m finetune_operator --config FILE [--metrics-port N] [--probe-port N]``."""

import signal
import sys


def main() -> int:
    """Run the operator; return the exit code."""
    # PID 1 of a container ignores SIGTERM without a handler. The operator installs its own handler
    # only after all imports and the first requests.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    from finetune_operator import manager

    return manager.main()


if __name__ == "__main__":
    sys.exit(main())
