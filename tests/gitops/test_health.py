"""Health in Argo CD and in kstatus, for the status of the operator in each situation.

``UPDATE_GOLDEN=1`` writes testdata/ and health_test.yaml, in the format of Argo CD, from the
situations, and argocd-cm.yaml from the scripts.
"""

import os
from typing import Any

import pytest
import yaml
from tests.support.gitops import kstatus, lua
from tests.support.gitops.healths import EXPECTED, JOBS
from tests.support.gitops.situations import SITUATIONS

SETTINGS = lua.SCRIPTS.parents[2] / "argocd-cm.yaml"
UPDATE = os.environ.get("UPDATE_GOLDEN") == "1"


@pytest.fixture(scope="module")
def healths() -> dict[str, dict[str, str]]:
    """The health in Argo CD, for each situation."""
    return dict(zip(JOBS, lua.run("health.lua", *JOBS.values()), strict=True))


def test_every_situation_has_an_expected_health() -> None:
    assert set(EXPECTED) == set(SITUATIONS)


@pytest.mark.parametrize("name", SITUATIONS)
def test_health_in_argo_cd_and_kstatus(name: str, healths: dict[str, dict[str, str]]) -> None:
    conditions = JOBS[name].get("status", {}).get("conditions", [])
    assert (healths[name]["status"], kstatus.of(JOBS[name])) == EXPECTED[name], conditions


def test_health_test_file_of_argo_cd_passes(healths: dict[str, dict[str, str]]) -> None:
    """health_test.yaml lists each file in testdata/ with the health of its job."""
    if UPDATE:
        for name, job in JOBS.items():
            _file(name).write_text(yaml.safe_dump(job, sort_keys=False))
        listed = [
            {"healthStatus": health, "inputPath": f"testdata/{name}.yaml"}
            for name, health in healths.items()
        ]
        text = yaml.safe_dump({"tests": listed}, sort_keys=False, width=1000)
        (lua.SCRIPTS / "health_test.yaml").write_text(text)
    cases = yaml.safe_load((lua.SCRIPTS / "health_test.yaml").read_text())["tests"]
    files = {path.name for path in (lua.SCRIPTS / "testdata").iterdir()}
    assert files == {f"{name}.yaml" for name in SITUATIONS}
    assert {case["inputPath"] for case in cases} == {f"testdata/{name}" for name in files}
    found = lua.run("health.lua", *(_load(lua.SCRIPTS / case["inputPath"]) for case in cases))
    assert found == [case["healthStatus"] for case in cases]


@pytest.mark.parametrize("name", SITUATIONS)
def test_testdata_equals_the_status_of_the_operator(name: str) -> None:
    assert _load(_file(name)) == JOBS[name], "run: UPDATE_GOLDEN=1 pytest tests/gitops"


def test_failed_change_and_endpoint_down_have_different_messages(
    healths: dict[str, dict[str, str]],
) -> None:
    failed, down = healths["candidate-failed"]["message"], healths["endpoint-down"]["message"]
    assert "is still serving" in failed
    assert failed.split(": ")[1] != down.split(": ")[0]
    assert down.startswith("EndpointDown: ")


@pytest.mark.parametrize(("situation", "wait"), [("queued", "queue"), ("preempted", "checkpoint")])
def test_message_of_a_queued_job_states_the_wait(
    situation: str, wait: str, healths: dict[str, dict[str, str]]
) -> None:
    assert wait in healths[situation]["message"]


def test_job_without_status_is_progressing_and_deleted_job_terminating() -> None:
    bare = {key: value for key, value in JOBS["unobserved"].items() if key != "status"}
    assert lua.run("health.lua", bare)[0]["status"] == "Progressing"
    job = JOBS["serving"]
    going = {**job, "metadata": {**job["metadata"], "deletionTimestamp": "2030-01-01T00:00:00Z"}}
    assert kstatus.of(going) == "Terminating"


def test_actions_suspend_and_resume() -> None:
    (running,), (paused,) = (
        lua.run("actions/discovery.lua", JOBS[name]) for name in ("training", "suspended")
    )
    assert (running["suspend"]["disabled"], running["resume"]["disabled"]) == (False, True)
    assert (paused["suspend"]["disabled"], paused["resume"]["disabled"]) == (True, False)
    (suspended,) = lua.run("actions/suspend/action.lua", JOBS["training"])
    (resumed,) = lua.run("actions/resume/action.lua", JOBS["suspended"])
    assert (suspended["spec"]["suspend"], resumed["spec"]["suspend"]) == (True, False)


def test_argocd_cm_contains_the_scripts() -> None:
    if UPDATE:
        SETTINGS.write_text(_settings())
    assert SETTINGS.read_text() == _settings(), "run: UPDATE_GOLDEN=1 pytest tests/gitops"


def _settings() -> str:
    """Return the ConfigMap ``argocd-cm`` with the scripts."""
    folder = lua.SCRIPTS / "actions"
    actions = {
        "discovery.lua": (folder / "discovery.lua").read_text(),
        "definitions": [
            {"name": path.parent.name, "action.lua": path.read_text()}
            for path in sorted(folder.glob("*/action.lua"))
        ],
    }
    return _dumped(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "argocd-cm", "namespace": "argocd"},
            "data": {
                f"resource.customizations.{what}.finetune.dev_FineTuneJob": text
                for what, text in (
                    ("health", (lua.SCRIPTS / "health.lua").read_text()),
                    ("actions", _dumped(actions)),
                )
            },
        }
    )


class _Readable(yaml.SafeDumper):
    """Writes multi-line strings as literal blocks."""


_Readable.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def _dumped(value: Any) -> str:
    return yaml.dump(value, Dumper=_Readable, sort_keys=False, width=1000)


def _file(name: str) -> Any:
    return lua.SCRIPTS / "testdata" / f"{name}.yaml"


def _load(path: Any) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded
