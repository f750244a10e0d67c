"""``python -m finetune_operator --config FILE [--metrics-port N] [--probe-port N]``."""

import gc
import signal
import sys

YOUNG_OBJECTS = 20_000
"""New objects after which Python searches for unreachable cycles. A page of a list has as many."""


def main() -> int:
    """Run the operator; return the exit code."""
    # PID 1 of a container ignores SIGTERM without a handler. The operator installs its own handler
    # only after all imports and the first requests.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    # With Python's default of 700, half of the processor time of a list is such searches, most of
    # them through the imported modules, which are never freed.
    gc.set_threshold(YOUNG_OBJECTS)

    from finetune_operator import manager

    gc.collect()
    gc.freeze()
    return manager.main()


if __name__ == "__main__":
    sys.exit(main())
