"""Environments that uv creates from pinned constraints files, above all ``.venv``.

An environment is recreated if the constraints change or if its folder was moved. Its key is
written last, so an interrupted installation does not count as complete.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster import packages, paths
from cluster.phases import phase
from cluster.shell import INDEX_HINT, logged

FOLDER = paths.REPO / ".venv"
CONSTRAINTS = [
    paths.REPO / "constraints" / f"{name}.txt" for name in ("operator", "trainer", "unsloth", "dev")
]
OVERRIDES = [paths.REPO / "constraints" / name for name in ("overrides.txt", "exclusions.in")]
UV = paths.REPO / "constraints" / "uv.txt"
LOG = paths.CACHE / "tests" / "venv.log"
INTERPRETER = str(Path(sys.executable).resolve())
"""Exists even if this process runs in the environment that ``ensure`` deletes: a link to it."""
IMPORT_PATHS = [str(paths.REPO / name) for name in ("operator", "trainer", "crds", "dev")]


def program(name: str) -> str:
    """Return the path of a program of the environment."""
    return str(FOLDER / "bin" / name)


def variables() -> dict[str, str]:
    """Return the environment variables with which the packages of this checkout can be imported."""
    return {
        "PYTHONPATH": os.pathsep.join(IMPORT_PATHS),
        "PATH": os.pathsep.join([str(FOLDER / "bin"), os.environ.get("PATH", "")]),
        # Tests start hundreds of processes. Without compiled files each of them spends half of its
        # start on compiling: 9 of 15 s of CPU time for torch and transformers. Empty means "not
        # set", whatever the caller's environment says.
        "PYTHONDONTWRITEBYTECODE": "",
    }


def ensure() -> None:
    """Create the environment unless it exists for exactly these constraints in this folder."""
    present = [file for file in CONSTRAINTS if file.exists()]
    title = "make .venv from the pinned constraints"
    create(FOLDER, present, LOG, title=title, overrides=OVERRIDES)


def create(
    folder: Path,
    constraints: Sequence[Path],
    log: Path,
    *,
    title: str,
    overrides: Sequence[Path] = (),
) -> None:
    """Create an environment unless it exists for exactly these files in this folder."""
    # The programs of an environment contain its folder in their first line.
    digest = hashlib.sha256(f"{sys.version}\0{folder}".encode())
    for file in [*constraints, *overrides]:
        digest.update(file.read_bytes())
    key = digest.hexdigest()
    mark = folder / ".finetune-key"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if mark.exists() and mark.read_text() == key:
            return
        with phase(title):
            shutil.rmtree(folder, ignore_errors=True)
            tool, python = uv(), str(folder / "bin" / "python")
            logged([tool, "venv", "--python", INTERPRETER, str(folder)], log, hint=INDEX_HINT)
            command = [tool, "pip", "install", "--python", python, "--require-hashes"]
            for file in overrides:
                command += ["--override", str(file)]
            for file in constraints:
                command += ["--requirement", str(file)]
            # Use the trust store of the machine, which can contain the CA of a company's proxy.
            logged(command, log, env={"UV_SYSTEM_CERTS": "1"}, hint=INDEX_HINT)
            mark.write_text(key)


def uv() -> str:
    """Return the uv command: the one on the path, otherwise one in the cache."""
    installed = shutil.which("uv")
    if installed:
        return installed
    pin = next(line for line in UV.read_text().splitlines() if line.startswith("uv=="))
    home = paths.CACHE / f"uv-{pin.removeprefix('uv==').split()[0]}"
    if not (home / "bin" / "uv").exists():
        shutil.rmtree(home, ignore_errors=True)
        packages.ensure_venv()
        partial = home.with_name(home.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        logged([INTERPRETER, "-m", "venv", str(partial)], LOG)
        python = str(partial / "bin" / "python")
        install = ["install", "--require-hashes", "--requirement", str(UV)]
        logged([python, "-m", "pip", *install], LOG, hint=INDEX_HINT)
        partial.rename(home)
    return str(Path(home) / "bin" / "uv")
