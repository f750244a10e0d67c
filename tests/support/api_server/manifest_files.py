"""Read the FineTuneJob manifests of the tests and docs, and run kubectl on them."""

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml
from tests.support.api_server.controlplane import ApiServer
from tests.support.markdown import blocks

from finetune_api import KIND

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
MANIFESTS = ROOT / "tests" / "integration" / "manifests"
INVALID = sorted((MANIFESTS / "invalid").glob("*.yaml"))
VALID = sorted((MANIFESTS / "valid").glob("*.yaml"))


class _Loader(yaml.SafeLoader):
    """A loader like that of kubectl. PyYAML reads ``2e-4`` as text and allows duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping; fail on a duplicate key, whose first value PyYAML would ignore."""
        keys = [key.value for key, _ in node.value]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        assert not twice, f"{node.start_mark}: twice in one mapping: {', '.join(twice)}"
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


def documents(file: Path) -> list[dict[str, Any]]:
    """Return the objects in a file."""
    return [found for found in yaml.load_all(file.read_text(), _Loader) if found]


def example_jobs() -> list[dict[str, Any]]:
    """Return all FineTuneJobs in the examples."""
    return [found for file in EXAMPLES for found in documents(file) if found["kind"] == KIND]


def printed() -> dict[str, dict[str, Any]]:
    """Return the complete objects in README and docs, by page and number of block and document."""
    return {
        f"{page.relative_to(ROOT)}#{number}.{place}": found
        for page in PAGES
        for number, block in enumerate(blocks(page.read_text(), "yaml"))
        for place, found in enumerate(yaml.load_all(block, _Loader))
        if found and "kind" in found
    }


def printed_jobs() -> dict[str, dict[str, Any]]:
    """Return the complete FineTuneJobs in README and docs, as ``printed`` does."""
    return {place: found for place, found in printed().items() if found["kind"] == KIND}


def expected(file: Path) -> str:
    """Return the expected part of the error message, from the first line of an invalid manifest."""
    first = file.read_text().splitlines()[0]
    said = first.removeprefix("# expect: ")
    assert said != first, f"{file.name} must begin with '# expect: <part of the message>'"
    return said


def kubectl(
    plane: ApiServer, *arguments: str, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run kubectl against the control plane."""
    return subprocess.run(
        [str(plane.assets / "kubectl"), f"--kubeconfig={plane.kubeconfig}", *arguments],
        input=stdin,
        text=True,
        capture_output=True,
        timeout=600,
        check=False,
    )
