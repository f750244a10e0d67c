"""Name and version of the package that users install."""

from importlib import metadata

PACKAGE = "finetune-operator"


def show() -> int:
    """Print both, and return the exit code."""
    try:
        version = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        version = "(not installed)"
    print(f"{PACKAGE} {version}")
    return 0
