"""The local cluster: a single-node Kubernetes built from source, without Docker.

``python3 dev/cluster <command>`` needs only the standard library, because it runs before any
virtual environment exists.
"""

import sys

# Here, because both entry points import this module before any code that needs this version.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(
        f"Python 3.11 or later is required, but {sys.executable} is {sys.version.split()[0]}. "
        "Set another interpreter, for example: make run PYTHON=python3.12"
    )
