"""The workflows are valid, run the targets of the Makefile, and use pinned actions."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from workflows import actionlint

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS: dict[str, dict[str, Any]] = {
    path.stem: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yml"))
}
PINNED = re.compile(r"\S+@[0-9a-f]{40}")
BROKEN = """
on: push
jobs:
  a:
    runs-on: ubuntu-24.04
    steps:
      - run: ${{ github.none }}
"""


def steps(workflow: str) -> list[dict[str, Any]]:
    return [step for job in WORKFLOWS[workflow]["jobs"].values() for step in job["steps"]]


def test_actionlint_accepts_the_workflows_and_refuses_a_broken_one(tmp_path: Path) -> None:
    program = actionlint.ensure()
    # Other linters of the machine would make the result depend on it.
    command = [str(program), "-shellcheck=", "-pyflakes="]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    (tmp_path / "broken.yml").write_text(BROKEN)
    broken = subprocess.run(
        [*command, str(tmp_path / "broken.yml")], capture_output=True, text=True, check=False
    )
    assert broken.returncode == 1
    assert 'property "none" is not defined' in broken.stdout


@pytest.mark.parametrize(
    ("workflow", "targets"),
    [
        ("check", ["check", "docs"]),
        ("release", ["release"]),
        ("scan", ["scan"]),
        ("test", ["test"]),
    ],
)
def test_workflows_run_the_targets_of_the_makefile(workflow: str, targets: list[str]) -> None:
    commands = "\n".join(step.get("run", "") for step in steps(workflow))
    assert re.findall(r"\bmake ([a-z]+)", commands) == targets
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_actions_are_pinned_by_commit_and_rights_are_declared() -> None:
    assert set(WORKFLOWS) == {"check", "release", "scan", "test"}
    for name, workflow in WORKFLOWS.items():
        assert workflow["permissions"] == {"contents": "read"}
        used = [step["uses"] for step in steps(name) if "uses" in step]
        assert used
        assert all(PINNED.fullmatch(action) for action in used)


HOSTILE_TAGS = [
    "v0';id;'",
    'v0";id;"',
    "v0.1.0;id",
    "v0.1.0$(id)",
    "v0.1.0`id`",
    "v1",
    "0.1.0",
    "v",
]


@pytest.mark.parametrize(
    ("tag", "accepted"),
    [("v0.1.0", True), ("v10.20.30-rc.1", True), *((tag, False) for tag in HOSTILE_TAGS)],
)
def test_only_a_version_is_released(tag: str, accepted: bool) -> None:
    first, *_ = steps("release")
    done = subprocess.run(
        ["bash", "-e", "-c", first["run"]],
        env={"PATH": os.environ["PATH"], "GITHUB_REF_NAME": tag},
        capture_output=True,
        check=False,
    )
    assert (done.returncode == 0) == accepted


@pytest.mark.parametrize("variable", ["VERSION", "REGISTRY"])
def test_a_version_is_no_shell_command(variable: str) -> None:
    given = {"VERSION": "0.1.0", "REGISTRY": "registry.example.com/team", variable: "0';id;'"}
    words = [f"{name}={value}" for name, value in given.items()]
    done = subprocess.run(
        ["make", "--dry-run", "release", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "dev/release" in done.stdout
    assert "id;" not in done.stdout, "the shell reads it from the environment"
