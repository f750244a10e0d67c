"""Runs one verb: credentials are masked, SIGTERM stops it, and each error is one line."""

import errno
import os
import sys
from collections.abc import Callable
from typing import Any

from typer.exceptions import Abort, Exit, TyperException

from finetune_api.safety import redaction
from finetune_cli.errors import CommandFailed
from finetune_cli.version import PACKAGE
from finetune_trainer.errors import Stopped, TrainerError
from finetune_trainer.runtime import environment
from finetune_trainer.runtime.signals import StopRequest

OWN_PACKAGES = ("finetune_api", "finetune_cli", "finetune_trainer")
EXTRA_OF_MODULE = {
    **dict.fromkeys(("huggingface_hub", "cryptography", "kubernetes", "botocore", "PIL"), "cli"),
    "aiohttp": "ui",
}
"""Modules of the extras ``cli`` and ``ui``; every other module is in the extra ``trainer``."""
INTERRUPTED = 130
UNEXPECTED = 1
OF_THE_OUTPUT = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF)
"""Errors of a closed pipe, a full disk or a lost terminal; ``streams`` reports them."""
TRACEBACK = "FTJ_TRACEBACK"
"""Environment variable with which an unexpected error is raised."""


def run(title: str, call: Callable[[StopRequest], Any]) -> int:
    """Run a verb and return its exit code. Raises OSError if the output cannot be written."""
    # The token of the user is in the environment.
    redaction.install()
    stop = StopRequest()
    stop.install()
    environment.configure()
    try:
        return int(call(stop) or 0)
    except (TyperException, Abort, Exit):
        raise
    except (TrainerError, Stopped) as ended:
        print(f"{ended.reason}: {ended}", file=sys.stderr)
        return int(ended.code)
    except CommandFailed as error:
        print(f"{title}: {error}", file=sys.stderr)
        return int(error.code)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        return _unexpected(title, error, stop)


def _unexpected(title: str, error: Exception, stop: StopRequest) -> int:
    """Report an error that no verb expects, and return the exit code."""
    if isinstance(error, ModuleNotFoundError):
        missing = str(error.name).split(".")[0]
        if missing not in OWN_PACKAGES:
            extra = EXTRA_OF_MODULE.get(missing, "trainer")
            print(
                f"{title} needs the package {missing}, which is not installed: run pip install "
                f"'{PACKAGE}[{extra}]'",
                file=sys.stderr,
            )
            return UNEXPECTED
    if stop.requested:
        # A library has turned the stop into an error of its own.
        print(f"{Stopped.reason}: {Stopped()}", file=sys.stderr)
        return int(Stopped.code)
    if os.environ.get(TRACEBACK) or (isinstance(error, OSError) and error.errno in OF_THE_OUTPUT):
        raise error
    print(
        f"{title}: unexpected {type(error).__name__}: {redaction.one_line(error)}. Report it as a "
        f"bug; with {TRACEBACK}=1 in the environment, the command prints where it happened",
        file=sys.stderr,
    )
    return UNEXPECTED
