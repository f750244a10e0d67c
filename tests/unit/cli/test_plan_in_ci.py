"""``examples/ci/plan.sh`` on a Git repository with two commits."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.fakes.comments import REQUEST, TOKEN, Platform, serving
from tests.support.merge_request import CI, MANIFEST, Repository

from finetune_api import API_VERSION
from finetune_api.v1alpha1.profile import PROFILE_KIND


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_an_edit_that_trains_is_commented_and_does_not_fail(repository: Repository) -> None:
    repository.use_installed_tool()
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
    repository.use_installed_tool()
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


def test_a_removed_job_is_in_the_plan(repository: Repository) -> None:
    repository.remove("jobs/support.yaml")
    code, plan, err = repository.plan()
    assert (code, err) == (0, "")
    assert "FineTuneJob default/support is in no manifest any more" in plan
    assert "1 job: 1 removed" in plan


def test_a_job_that_a_changed_file_has_no_more_is_in_the_plan(repository: Repository) -> None:
    other = MANIFEST.replace("support", "billing")
    repository.git("switch", "--quiet", "main")
    repository.commit({"jobs/both.yaml": f"{other}---\n{MANIFEST.replace('support', 'sales')}"})
    repository.git("switch", "--quiet", "--create", "later")
    repository.commit({"jobs/both.yaml": other})
    code, plan, _ = repository.plan()
    assert code == 0
    assert "default/sales is in no manifest any more" in plan
    assert "default/billing does not change" in plan


@pytest.mark.parametrize("form", ["list", "indented", "json"])
def test_jobs_in_lists_and_in_json_are_found(form: str, repository: Repository) -> None:
    job = yaml.safe_load(MANIFEST)
    list_ = {"apiVersion": "v1", "kind": "List", "items": [job]}
    text = json.dumps(list_) if form == "json" else yaml.safe_dump(list_, sort_keys=form == "list")
    repository.commit({"jobs/support.yaml": text.replace("support", "listed")})
    code, plan, err = repository.plan()
    assert (code, err) == (0, "")
    assert "default/listed is created" in plan
    assert "default/support is in no manifest any more" in plan


def profile(limit: int) -> str:
    document = {
        "apiVersion": API_VERSION,
        "kind": PROFILE_KIND,
        "metadata": {"name": "small"},
        "spec": {"limits": {"maxSequenceLength": limit}},
    }
    return yaml.safe_dump(document)


def test_a_change_of_a_profile_alone_is_planned_for_its_jobs(repository: Repository) -> None:
    settings: dict[str, Any] = {"policy": {}}
    configmap = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "finetune-operator-settings"},
        "data": {"settings.yaml": yaml.safe_dump(settings)},
    }
    (repository.folder / "cluster.yaml").write_text(yaml.safe_dump(configmap))
    job = MANIFEST + "  profile: small\n  training: {sequenceLength: 1024}\n"
    template = "kind: FineTuneJob\nspec: {{ .Values.spec }}\n"
    repository.git("switch", "--quiet", "main")
    files = {"jobs/a.yaml": job, "profile.yaml": profile(2048), "templates/job.yaml": template}
    repository.commit(files)
    repository.git("switch", "--quiet", "--create", "later")
    repository.commit({"profile.yaml": profile(1536)})
    code, plan, err = repository.plan(PLAN_STATE="cluster.yaml")
    assert (code, err) == (0, "")
    assert "of which 1 with a changed profile do not change" in plan
    repository.commit({"profile.yaml": profile(512)})
    code, plan, _ = repository.plan(PLAN_STATE="cluster.yaml")
    assert code == 4
    assert "FineTuneProfile small" in plan


def test_the_jobs_of_a_removed_profile_are_planned(repository: Repository) -> None:
    repository.git("switch", "--quiet", "main")
    repository.commit(
        {"jobs/support.yaml": MANIFEST + "  profile: small\n", "profile.yaml": profile(2048)}
    )
    repository.git("switch", "--quiet", "--create", "later")
    repository.remove("profile.yaml")
    code, plan, err = repository.plan()
    assert (code, err) == (0, "")
    assert "FineTuneJob default/support does not change" in plan
    assert "There is no FineTuneProfile small: the present revision continues" in plan
    repository.commit({"jobs/support.yaml": MANIFEST + "  profile: small\n  rerun: again\n"})
    code, plan, err = repository.plan()
    assert (code, err) == (64, "")
    assert "FineTuneJob default/support waits with the reason ProfileNotFound" in plan


@pytest.mark.parametrize("indent", ["", "  "])
def test_a_patch_that_names_the_kind_is_no_job(indent: str, repository: Repository) -> None:
    patch = f"patches:\n- target:\n    {indent}kind: FineTuneJob\n    {indent}name: support\n"
    repository.use_installed_tool()
    repository.commit({"overlays/kustomization.yaml": patch})
    assert repository.plan() == (0, "<!-- ftj plan -->\nNo FineTuneJob changes.\n", "")


@pytest.fixture
def platform() -> Iterator[Platform]:
    with serving() as served:
        yield served


@pytest.mark.parametrize("name", ["github", "gitlab"])
def test_the_comment_of_an_earlier_run_is_edited(
    name: str, platform: Platform, tmp_path: Path
) -> None:
    environment = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    environment |= platform.variables(name)
    if name == "github":
        environment |= {"GH_TOKEN": TOKEN, "NUMBER": str(REQUEST)}
    for text in ("first", "second", "x" * 100_000):
        (tmp_path / "plan.md").write_text(f"<!-- ftj plan -->\n{text}\n")
        done = subprocess.run(
            [sys.executable, str(CI / "comment.py")],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        imitation, own = platform.comments
        assert imitation["body"].endswith("harmless"), "its author could edit it afterwards"
        assert own["body"].startswith(f"<!-- ftj plan -->\n{text[:20]}")
        assert len(own["body"]) < 65536, "the limit of GitHub"
    path = {"github": "/repos/org/jobs/issues", "gitlab": "/projects/3/merge_requests/5/notes"}
    token = {"github": f"Bearer {TOKEN}", "gitlab": TOKEN}[name]
    comments = f"{path[name]}/5/comments" if name == "github" else path[name]
    assert f"POST {comments} {token}" in platform.requests
    edit = f"PATCH {path[name]}/comments/1" if name == "github" else f"PUT {comments}/1"
    assert f"{edit} {token}" in platform.requests


def test_a_rejected_token_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "plan.md").write_text("<!-- ftj plan -->\n")
    done = subprocess.run(
        [sys.executable, str(CI / "comment.py")],
        cwd=tmp_path,
        env={
            "CI_API_V4_URL": "http://127.0.0.1:9",
            "CI_PROJECT_ID": "3",
            "CI_MERGE_REQUEST_IID": "5",
            "PLAN_TOKEN": "secret",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "secret" not in done.stderr


@pytest.mark.parametrize("name", ["github-plan.yml", "gitlab-plan.yml"])
def test_the_jobs_run_the_scripts(name: str) -> None:
    text = (CI / name).read_text()
    assert yaml.safe_load(text)
    assert ".ci/plan.sh " in text
    assert ".ci/comment.py" in text
