"""The extras of the package agree with the constraints that are tested."""

import importlib.metadata
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from cluster import paths

EXTRAS = {
    "operator": ("operator.txt",),
    "trainer": ("trainer.txt",),
    # The Kubernetes client is that of the operator.
    "cli": ("trainer.txt", "operator.txt"),
    "ui": ("trainer.txt", "operator.txt"),
}


def requirements(extra: str) -> list[Requirement]:
    project = tomllib.loads((paths.REPO / "pyproject.toml").read_text())["project"]
    return [Requirement(each) for each in project["optional-dependencies"][extra]]


def pinned(name: str) -> dict[str, Version]:
    text = (paths.REPO / "constraints" / name).read_text()
    pairs = re.findall(r"^([a-z0-9._-]+)(?:\[.+\])?==(\S+)", text, re.MULTILINE)
    return {package.replace("_", "-"): Version(version) for package, version in pairs}


@pytest.mark.parametrize(("extra", "files"), EXTRAS.items())
def test_constraints_satisfy_the_bounds_of_the_extra(extra: str, files: tuple[str, ...]) -> None:
    versions = {name: each for file in files for name, each in pinned(file).items()}
    for each in requirements(extra):
        version = versions[each.name.lower().replace("_", "-")]
        assert version in each.specifier, f"{each} excludes the tested version {version}"


@pytest.mark.parametrize("extra", ["cli", "trainer", "ui"])
def test_requirement_has_an_upper_bound(extra: str) -> None:
    for each in requirements(extra):
        assert any(bound.operator in ("<", "<=", "==", "~=") for bound in each.specifier), each


def test_image_with_unsloth_contains_what_unsloth_requires() -> None:
    """The image installs the list without dependencies, because no release of xformers loads."""
    listed = pinned("trainer.txt") | pinned("unsloth.txt")
    required = [
        Requirement(each)
        for name in ("unsloth", "unsloth_zoo")
        for each in importlib.metadata.requires(name) or ()
    ]
    needed = {
        each.name.lower().replace("_", "-")
        for each in required
        if each.marker is None or each.marker.evaluate({"extra": ""})
    }
    assert needed - listed.keys() == {"xformers"}


def test_cli_needs_no_torch() -> None:
    assert "torch" not in {each.name for each in requirements("cli")}
