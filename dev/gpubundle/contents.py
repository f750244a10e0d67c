"""The files of the bundle: our code, and packages that a machine with PyTorch may lack."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from packaging.requirements import Requirement

PRESENT = ("torch", "transformers", "accelerate", "triton")
"""Packages that the machine has, together with what they need."""
NEEDED = ("peft", "trl", "liger-kernel", "bitsandbytes", "prometheus-client", "tensorboardx")
ALWAYS = ("pydantic",)
"""Packages that the bundle contains even if PRESENT need them, because some versions do not."""
SOURCES = (
    "LICENSE",
    "NOTICE",
    "bench/__init__.py",
    "bench/machine.py",
    "bench/table.py",
    "bench/gpu",
    "bench/training",
    "crds/finetune_api",
    "trainer/finetune_trainer",
)
PACKAGES = "packages"
BUILT_FOR = "python-version"
"""File below PACKAGES with the version of Python for which they are compiled."""
OMITTED = (
    "*/__pycache__/*",
    "*.pyi",
    "*.pyx",
    "*.pxd",
    "bin/*",
    "../*",
    "*/tests/*",
    "pyarrow/include/*",
    "pyarrow/src/*",
    # Connections to servers, which nothing here makes.
    "pyarrow/*flight*",
    "pyarrow/*_s3*",
    "pyarrow/*s3fs*",
    # Links to these libraries, and copies where a wheel cannot contain links.
    "pyarrow/libarrow_python*.so",
    "pyarrow/libarrow_python*.so.*.*.*",
)
BNB_LIBRARY = "bitsandbytes/libbitsandbytes_*"


def present(*sites: Path) -> set[str]:
    """Return the packages that the machine has, and the bundle does not contain."""
    return _closure(PRESENT, sites) - _closure(ALWAYS, sites)


def missing(*sites: Path) -> set[str]:
    """Return the packages of the bundle. sites: folders with their metadata, the first one wins."""
    return (_closure(NEEDED, sites) | _closure(ALWAYS, sites)) - present(*sites)


def write(root: Path, site: Path, folder: Path, *, names: Iterable[str], cuda: str) -> None:
    """Copy our code and the packages with these names into a folder.

    site: where the packages are installed. cuda: the version, such as ``130``, whose library of
    bitsandbytes the bundle contains.
    """
    for name in SOURCES:
        source, target = root / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target, ignore=ignored)
        else:
            shutil.copyfile(source, target)
    libraries = {f"bitsandbytes/libbitsandbytes_{kind}.so" for kind in ("cpu", f"cuda{cuda}")}
    for name in sorted(names):
        for file in _files(name, site):
            if fnmatch(file, BNB_LIBRARY) and file not in libraries:
                continue
            target = folder / PACKAGES / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(site / file, target)
    for library in libraries:
        if not (folder / PACKAGES / library).exists():
            raise ValueError(f"bitsandbytes has no {library}: choose another version of CUDA")


def _files(name: str, site: Path) -> Iterator[str]:
    """Yield the installed files of a distribution that the bundle contains."""
    for file in _distribution(name, [site]).files or ():
        path = str(file)
        omitted = any(fnmatch(path, pattern) for pattern in OMITTED)
        if not omitted and (site / path).is_file():
            yield path


def _closure(names: Iterable[str], sites: Sequence[Path]) -> set[str]:
    """Return these distributions and all that they need, without extras."""
    closure: set[str] = set()
    queue = [_normalized(name) for name in names]
    while queue:
        name = queue.pop()
        if name in closure:
            continue
        closure.add(name)
        for text in _distribution(name, sites).requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                queue.append(_normalized(requirement.name))
    return closure


def _distribution(name: str, sites: Sequence[Path]) -> importlib.metadata.Distribution:
    path = [str(site) for site in sites]
    distribution = next(iter(importlib.metadata.distributions(name=name, path=path)), None)
    if distribution is None:
        raise ValueError(f"the package {name} is not installed: run make venv")
    return distribution


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
