"""The local cluster: a single-node Kubernetes built from source, without Docker.

Runnable as ``python3 dev/cluster <command>`` with the standard library alone, because it runs
before any virtual environment exists.
"""

import sys

# Here, because both commands of this folder import it before anything that needs that version.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(
        f"Python 3.11 or later is needed, {sys.executable} is {sys.version.split()[0]}: "
        "name another one, as in make run PYTHON=python3.12"
    )
