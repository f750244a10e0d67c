"""The development environment ``.venv``: made by uv from the pinned constraints files.

It is made anew when the constraints change or its folder has moved. Its key is written last, so
an interrupted installation is never mistaken for a finished one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
from pathlib import Path

from cluster import packages, paths
from cluster.phases import phase
from cluster.shell import INDEX_HINT, logged

UV_VERSION = "0.13.9"
FOLDER = paths.REPO / ".venv"
CONSTRAINTS = [
    paths.REPO / "constraints" / f"{name}.txt" for name in ("operator", "trainer", "unsloth", "dev")
]
OVERRIDES = paths.REPO / "constraints" / "overrides.txt"
LOG = paths.CACHE / "tests" / "venv.log"
IMPORT_PATHS = [str(paths.REPO / name) for name in ("operator", "trainer", "crds", "dev")]


def program(name: str) -> str:
    """Path of a program of the environment."""
    return str(FOLDER / "bin" / name)


def variables() -> dict[str, str]:
    """Environment variables that make our packages importable from this checkout."""
    return {
        "PYTHONPATH": os.pathsep.join(IMPORT_PATHS),
        "PATH": os.pathsep.join([str(FOLDER / "bin"), os.environ.get("PATH", "")]),
        # Tests start hundreds of processes. Without compiled files each of them spends half of its
        # start on compiling: 9 of 15 s of CPU time for torch and transformers. Empty means "not
        # set", whatever the caller's environment says.
        "PYTHONDONTWRITEBYTECODE": "",
    }


def ensure() -> None:
    """Make the environment unless it is there for exactly these constraints, in this folder."""
    present = [file for file in CONSTRAINTS if file.exists()]
    # The programs of an environment name its folder in their first line.
    digest = hashlib.sha256(f"{sys.version}\0{FOLDER}".encode())
    for file in [*present, OVERRIDES]:
        digest.update(file.read_bytes())
    key = digest.hexdigest()
    mark = FOLDER / ".finetune-key"
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with (LOG.parent / "venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if mark.exists() and mark.read_text() == key:
            return
        with phase("make .venv from the pinned constraints"):
            shutil.rmtree(FOLDER, ignore_errors=True)
            tool = uv()
            logged([tool, "venv", "--python", sys.executable, str(FOLDER)], LOG, hint=INDEX_HINT)
            command = [tool, "pip", "install", "--python", program("python")]
            command += ["--override", str(OVERRIDES)]
            for file in present:
                command += ["--requirement", str(file)]
            # The machine's own trust, which a company's proxy may have changed.
            logged(command, LOG, env={"UV_SYSTEM_CERTS": "1"}, hint=INDEX_HINT)
            mark.write_text(key)


def uv() -> str:
    """The uv command; one of its own in the cache unless it is on the path."""
    found = shutil.which("uv")
    if found:
        return found
    home = paths.CACHE / f"uv-{UV_VERSION}"
    if not (home / "bin" / "uv").exists():
        shutil.rmtree(home, ignore_errors=True)
        packages.ensure_venv()
        partial = home.with_name(home.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        logged([sys.executable, "-m", "venv", str(partial)], LOG)
        python = str(partial / "bin" / "python")
        logged([python, "-m", "pip", "install", f"uv=={UV_VERSION}"], LOG, hint=INDEX_HINT)
        partial.rename(home)
    return str(Path(home) / "bin" / "uv")
