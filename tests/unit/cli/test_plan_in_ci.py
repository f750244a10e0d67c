"""``examples/ci/plan.sh`` on a Git repository with two commits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster import paths
from finetune_api import API_VERSION, KIND

CI = paths.REPO / "examples" / "ci"
MANIFEST = f"""\
apiVersion: {API_VERSION}
kind: {KIND}
metadata: {{name: support}}
spec:
  model: {{source: hf://org/model}}
  dataset: {{source: hf://org/rows, format: alpaca}}
"""


class Repository:
    """A repository whose branch ``change`` begins at ``main``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit({"jobs/support.yaml": MANIFEST, "chart/values.yaml": "{{ template }}\n"})
        self.git("switch", "--quiet", "--create", "change")
        tool = folder / "bin" / "ftj"
        tool.parent.mkdir()
        tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m finetune_cli "$@"\n')
        tool.chmod(0o755)

    def git(self, *words: str) -> None:
        who = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
        subprocess.run(["git", *who, *words], cwd=self.folder, check=True)

    def commit(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.git("add", *files)
        self.git("commit", "--quiet", "--message=change")

    def plan(self, **variables: str) -> tuple[int, str, str]:
        """Return exit code, plan.md and stderr."""
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [str(CI / "plan.sh"), "main", "--offline"],
            cwd=self.folder,
            env=os.environ | {"PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)} | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        plan = self.folder / "plan.md"
        return done.returncode, plan.read_text() if plan.exists() else "", done.stderr


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_an_edit_that_trains_is_commented_and_does_not_fail(repository: Repository) -> None:
    repository.commit({"jobs/support.yaml": MANIFEST + "  training: {seed: 7}\n"})
    code, plan, err = repository.plan()
    assert (code, err) == (0, "")
    assert plan.startswith("<!-- ftj plan -->\n")
    assert "| `training.seed` | " in plan
    assert "` | `7` | `retrain` |" in plan
    assert plan.endswith("Compared with the state in base.yaml.\n")


def test_new_and_unchanged_jobs_and_other_files(repository: Repository) -> None:
    other = MANIFEST.replace("support", "billing")
    repository.commit({"jobs/my billing.yaml": other, "chart/values.yaml": "{{ other }}\n"})
    code, plan, _ = repository.plan()
    assert code == 0
    assert "default/billing is created" in plan
    assert "support" not in plan


def test_a_job_in_a_moved_file_is_the_same_job(repository: Repository) -> None:
    repository.git("mv", "jobs/support.yaml", "moved.yaml")
    repository.commit({"moved.yaml": MANIFEST + "  serving: {maxModelLen: 2048}\n"})
    code, plan, err = repository.plan()
    assert (code, err) == (0, "")
    assert "| `serving.maxModelLen` | `–` | `2048` | `roll` |" in plan
    assert "is created" not in plan


def test_no_changed_job_is_no_failure(repository: Repository) -> None:
    repository.commit({"README.yaml": "a: 1\n"})
    assert repository.plan() == (0, "<!-- ftj plan -->\nNo FineTuneJob changes.\n", "")


def test_an_invalid_job_fails_with_its_comment(repository: Repository) -> None:
    repository.commit({"jobs/support.yaml": MANIFEST + "  training: {seed: x}\n"})
    code, plan, _ = repository.plan()
    assert code == 64
    assert "spec.training.seed: set an integer" in plan


def test_limits_come_from_the_saved_settings(repository: Repository) -> None:
    settings = {"policy": {"maxReplicas": 1}}
    configmap = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "finetune-operator-settings"},
        "data": {"settings.yaml": yaml.safe_dump(settings)},
    }
    state = repository.folder / "cluster.yaml"
    state.write_text(yaml.safe_dump(configmap))
    storage = "  storage: {accessMode: ReadWriteMany, storageClassName: shared}\n"
    spec = f"{MANIFEST}{storage}  serving: {{replicas: 2}}\n"
    repository.commit({"jobs/support.yaml": spec})
    code, plan, _ = repository.plan(PLAN_STATE="cluster.yaml")
    assert code == 4
    assert "chart value policy.maxReplicas" in plan


def test_without_the_saved_settings_their_verdicts_are_unknown(repository: Repository) -> None:
    repository.commit({"jobs/support.yaml": MANIFEST + "  training: {seed: 7}\n"})
    code, plan, err = repository.plan(PLAN_STATE=".ci/cluster.yaml")
    assert code == 0
    assert "` | `7` | `retrain` |" in plan
    assert err == "plan.sh: there is no file .ci/cluster.yaml, so limits and budgets are unknown\n"


@pytest.mark.parametrize("name", ["github-plan.yml", "gitlab-plan.yml"])
def test_the_jobs_run_the_script(name: str) -> None:
    text = (CI / name).read_text()
    assert yaml.safe_load(text)
    assert ".ci/plan.sh " in text
    assert "plan.md" in text
