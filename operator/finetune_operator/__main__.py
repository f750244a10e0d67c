"""``python -m finetune_operator``: runs ``app`` until a signal. See ``environment``."""

import gc
import logging
import os
import signal
import sys

YOUNG_OBJECTS = 20_000
"""New objects after which Python searches for unreachable cycles. A page of a list has as many."""

logger = logging.getLogger("finetune_operator")


def main() -> int:
    """Run the operator; return 0 after SIGTERM or SIGINT, else 1, so that it is restarted."""
    # PID 1 of a container ignores SIGTERM without a handler, and kopf installs its own only after
    # all imports.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    # With Python's default of 700, half of the processor time of a list is such searches, most of
    # them through the imported modules, which are never freed.
    gc.set_threshold(YOUNG_OBJECTS)

    import kopf

    # The import of app registers its handlers.
    from finetune_operator import app, environment  # noqa: F401
    from finetune_operator.telemetry import logs

    gc.collect()
    gc.freeze()
    logs.configure("info")
    try:
        file = environment.read(os.environ).config_file
        namespaces = environment.load_config(file)[0].watch_namespaces
        kopf.run(clusterwide=not namespaces, namespaces=namespaces)
    except environment.ConfigurationError as error:
        logger.error("%s", error)
        return 1
    except Exception as error:
        # kopf has logged the traceback. It wraps the error of a handler in an error of its own.
        logger.error("ended: %s", error.__cause__ or error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
