"""The page about Axolotl's examples, written from a clone with configurations of our own."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.unit.cli.axolotl.test_axolotl import MINIMAL
from tests.unit.docs.links import ROOT

from axolotldocs import __main__ as axolotldocs

EXAMPLES = {
    "a/plain.yml": MINIMAL,
    "a/lossy.yaml": MINIMAL | {"optimizer": "muon", "load_in_8bit": True, "xformers": "x"},
    "b/also-lossy.yaml": MINIMAL | {"optimizer": "muon"},
    "b/full.yml": MINIMAL | {"adapter": None},
    "c/style.yml": MINIMAL | {"datasets": [{"path": "org/rows", "type": "alpaca:chat"}]},
    "c/invalid.yml": MINIMAL | {"learning_rate": -1},
    "cloud/machine.yaml": {"provider": "none"},
    "list.yaml": ["no configuration"],
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, config in EXAMPLES.items():
        file = tmp_path / "examples" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(config))
    return tmp_path


def test_page_counts_results_and_settings(checkout: Path) -> None:
    found = [*axolotldocs.results(checkout / "examples")]
    lines = axolotldocs.page(found, commit="0123456789abcdef").splitlines()
    assert "`ftj import-axolotl` was run on the 6 [example" in lines[4]
    assert "at commit `01234567`." in lines[5]
    tables = [line for line in lines if line.startswith("| ") and "Configurations" not in line]
    assert tables == [
        "| converted, no setting is dropped | 1 |",
        "| converted, some settings are dropped | 2 |",
        "| rejected | 3 |",
        "| `optimizer` | 2 | `a/lossy.yaml` |",
        "| `xformers` | 1 | `a/lossy.yaml` |",
        "| `load_in_8bit` | 1 | `a/lossy.yaml` |",
        "| `(the FineTuneJob is invalid)` | 1 | `c/invalid.yml` |",
        "| `adapter` | 1 | `b/full.yml` |",
        "| `datasets[].type` | 1 | `c/style.yml` |",
    ]


def test_page_of_the_documentation_has_the_form_that_the_command_writes() -> None:
    page = axolotldocs.PAGE.read_text(encoding="utf-8")
    commit = page.partition("/tree/")[2].partition("/")[0]
    empty = axolotldocs.page([], commit=commit)
    written = {line.rstrip("0123456789 |") for line in empty.splitlines()[6:]}
    assert written <= {line.rstrip("0123456789 |") for line in page.splitlines()}
    assert f"at commit `{commit[:8]}`." in page


def test_folder_that_is_no_clone_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "axolotldocs", str(tmp_path)]
    path = ":".join(str(ROOT / name) for name in ("crds", "trainer", "dev"))
    done = subprocess.run(
        command, capture_output=True, text=True, env={"PYTHONPATH": path}, check=False
    )
    assert done.returncode == 2
    assert f"{tmp_path} has no folder examples: name a clone of" in done.stderr
