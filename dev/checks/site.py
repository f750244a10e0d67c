"""``make docs``: build the documentation site with MkDocs, in a separate environment.

The environment is in the cache, because nothing else needs its packages. In strict mode, every dead
link is an error.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

from checks import environment
from cluster import paths
from cluster.phases import phase, say
from cluster.shell import INDEX_HINT, logged

CONSTRAINTS = paths.REPO / "constraints" / "docs.txt"
SITE = paths.REPO / "build" / "site"
LOG = paths.CACHE / "tests" / "docs.log"


def build() -> int:
    """Build the site below ``build/site``. Raises ClusterError if a link is dead."""
    LOG.parent.mkdir(parents=True, exist_ok=True)
    mkdocs = _environment() / "bin" / "mkdocs"
    with phase("build the documentation site"):
        words = [str(mkdocs), "build", "--strict", "--config-file", str(paths.REPO / "mkdocs.yml")]
        logged([*words, "--site-dir", str(SITE)], LOG)
    say(f"    {SITE.relative_to(paths.REPO)}/index.html")
    return 0


def _environment() -> Path:
    """Return the folder of the environment for exactly these constraints; create it if missing."""
    key = hashlib.sha256(sys.version.encode() + CONSTRAINTS.read_bytes()).hexdigest()[:16]
    folder = paths.CACHE / "docs" / key
    # Written last, so that an interrupted installation is not used.
    mark = folder / ".complete"
    if mark.exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    with phase("install the documentation tools"):
        tool = environment.uv()
        logged([tool, "venv", "--python", sys.executable, str(folder)], LOG, hint=INDEX_HINT)
        command = [tool, "pip", "install", "--python", str(folder / "bin" / "python")]
        command += ["--require-hashes", "--requirement", str(CONSTRAINTS)]
        logged(command, LOG, env={"UV_SYSTEM_CERTS": "1"}, hint=INDEX_HINT)
        mark.touch()
    return folder
