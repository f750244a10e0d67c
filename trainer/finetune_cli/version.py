"""Name and version of the package that users install."""

from importlib import metadata

PACKAGE = "finetune-operator"


def show() -> int:
    """Print both, and return the exit code."""
    print(f"{PACKAGE} {installed() or '(not installed)'}")
    return 0


def installed() -> str | None:
    """Return the version, None if the package runs without an installation."""
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return None
