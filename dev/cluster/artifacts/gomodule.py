"""Programs of other projects, built from their published Go modules.

A published module contains one ``go.mod``. Modules in other folders of the same repository are not
part of it: the ``replace`` directives of ``go.mod`` that name such folders must name published
versions instead.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cluster import paths
from cluster.artifacts import golang
from cluster.phases import phase
from cluster.shell import logged, run

ENVIRONMENT = {
    "CGO_ENABLED": "0",
    "GOTOOLCHAIN": "local",
    "GOFLAGS": "-buildvcs=false",
    # Kubernetes publishes its workspace, whose folders are not part of the module.
    "GOWORK": "off",
}
HINT = "check that the Go module proxy is reachable, then run the same command again"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Module:
    """A published Go module.

    ``packages`` maps the name of each program to the folder of its package. ``edits`` are regular
    expressions and their replacements in the text of ``go.mod``, in this order.
    """

    path: str
    version: str
    packages: Mapping[str, str]
    flags: str = "-s -w"
    edits: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.path}@{self.version}"

    def edited(self, text: str) -> str:
        """Return the text of ``go.mod`` after the edits."""
        for pattern, replacement in self.edits:
            text = re.sub(pattern, replacement, text)
        return text


def source(module: Module) -> Path:
    """Download a module; return its folder, which is read-only. Raises CommandFailed."""
    download = [golang.find(), "mod", "download", "-json", str(module)]
    # Below this folder there is no module whose requirements could select another version.
    return Path(json.loads(run(download, env=ENVIRONMENT, cwd=Path("/")).stdout)["Dir"])


def build(module: Module, target: Path) -> Path:
    """Build the missing programs into a folder; return the folder of the module's source.

    Raises CommandFailed.
    """
    folder = source(module)
    missing = [name for name in module.packages if not (target / name).exists()]
    if missing:
        target.mkdir(parents=True, exist_ok=True)
        with (
            phase(f"build {', '.join(missing)} from {module}"),
            tempfile.TemporaryDirectory(dir=target, prefix=".partial-") as partial,
        ):
            for name in missing:
                _build(module, folder, name, Path(partial)).replace(target / name)
    return folder


def _build(module: Module, folder: Path, name: str, partial: Path) -> Path:
    # go completes its go.sum, and cannot write next to the source.
    own, built = partial / "build.mod", partial / name
    own.write_text(module.edited((folder / "go.mod").read_text()))
    own.with_suffix(".sum").write_bytes((folder / "go.sum").read_bytes())
    command = [golang.find(), "build", "-trimpath", "-mod=mod", f"-modfile={own}"]
    command += ["-ldflags", module.flags, "-o", str(built), module.packages[name]]
    log = paths.LOGS / "build-modules.log"
    logged(command, log, env=ENVIRONMENT, cwd=folder, hint=HINT)
    return built
