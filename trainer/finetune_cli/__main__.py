"""The entry point of ``ftj``, and of ``kubectl ftj`` (the program ``kubectl-ftj``)."""

import sys
from collections.abc import Sequence
from pathlib import Path

from finetune_cli import streams


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    streams.prepare()
    if given == ["--version"]:
        # Without the libraries that the other commands need.
        from finetune_cli import version

        return streams.guarded(version.show)
    from finetune_cli import app

    return streams.guarded(lambda: app.run(given or ["--help"], _program()))


def _program() -> str:
    """Return the name with which users call this program."""
    return "kubectl ftj" if Path(sys.argv[0]).name == "kubectl-ftj" else "ftj"


if __name__ == "__main__":
    sys.exit(main())
