"""``ftj plan`` against a real API server: its verdicts, and what the operator then does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.integration.test_ftj import limited as limited
from tests.integration.test_operator_with_controllers import run_stages
from tests.support.api_server.controlplane import ApiError, wait_until
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.operatorprocess import OperatorProcess
from tests.support.api_server.rbac import RBAC, wait_until_granted
from tests.support.helm import render
from tests.support.merge_request import MANIFEST, Repository, documented_jobs

from finetune_api.policy.readable_settings import NAME
from finetune_cli import __main__ as ftj

pytestmark = pytest.mark.usefixtures("controller_manager")

Spec = dict[str, Any]
Plan = Callable[..., dict[str, Any]]
JOBS = {"apiGroups": ["finetune.dev"], "resources": ["finetunejobs"], "verbs": ["get"]}


@pytest.fixture
def plan(place: Namespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Plan:
    """Return a function that plans a change of the job demo, and returns the JSON."""

    def plan(spec: Spec, *, kubeconfig: Path | None = None) -> dict[str, Any]:
        path = tmp_path / "job.yaml"
        job = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob"}
        path.write_text(yaml.safe_dump({**job, "metadata": {"name": "demo"}, "spec": spec}))
        words = ["plan", "-f", str(path), "--offline", "-o", "json", "-n", place.name]
        words += ["--kubeconfig", str(kubeconfig or place.plane.kubeconfig)]
        code = ftj.main([*words, "--operator-namespace", place.name])
        said = capsys.readouterr()
        assert said.err == ""
        (found,) = json.loads(said.out)["jobs"]
        assert found["exitCode"] == code
        return dict(found)

    return plan


def edit(place: Namespace, spec: Spec) -> None:
    """Replace the spec. The operator may write the status after the job was read: read it again."""

    def written() -> bool:
        try:
            place.plane.put(place.path("finetunejobs", "demo"), {**place.job(), "spec": spec})
        except ApiError as error:
            if error.status != 409:
                raise
            return False
        return True

    wait_until("the spec is written", written)


def stages(place: Namespace) -> set[tuple[str, str]]:
    """Return revision and stage of all Jobs."""
    labels = [each["metadata"]["labels"] for each in place.items("jobs")]
    return {(each["finetune.dev/revision"], each["finetune.dev/stage"]) for each in labels}


def templates(place: Namespace) -> list[Any]:
    return [each["spec"]["template"] for each in place.items("deployments")]


def test_the_operator_does_what_was_planned(
    operator: OperatorProcess, place: Namespace, plan: Plan
) -> None:
    place.submit()
    run_stages(place, "Serving")
    operator.settled()
    spec = place.job()["spec"]
    made, pods = stages(place), templates(place)
    assert plan(spec)["effects"] == ["nothing"]

    spec = spec | {"revisionHistoryLimit": 5, "runPolicy": {"maxRestarts": 30}}
    found = plan(spec)
    assert (found["effects"], found["exitCode"]) == (["nothing"], 0)
    edit(place, spec)
    operator.settled()
    assert (stages(place), templates(place)) == (made, pods)

    spec = spec | {"serving": {"maxModelLen": 2048}}
    found = plan(spec)
    assert (found["effects"], found["exitCode"]) == (["roll"], 0)
    assert "down while the new pod loads" in found["endpoint"]
    edit(place, spec)
    wait_until("the pods are replaced", lambda: templates(place) != pods)
    assert stages(place) == made

    spec = spec | {"training": {"seed": 7}}
    found = plan(spec)
    assert (found["effects"], found["exitCode"]) == (["retrain"], 3)
    edit(place, spec)
    wait_until("data preparation starts", lambda: stages(place) != made)
    assert stages(place) - made == {(found["revision"], "prepare")}

    back = {key: value for key, value in spec.items() if key != "training"}
    found = plan(back)
    assert (found["effects"], found["exitCode"]) == (["nothing"], 0)
    assert "trained already" in found["returns"]
    assert found["discards"].startswith("The stage prepare of revision ")


def test_a_user_who_may_only_read_jobs_sees_the_limits_of_the_chart(
    place: Namespace, plan: Plan, limited: Callable[..., Path], tmp_path: Path
) -> None:
    place.submit()
    kubeconfig = limited(tmp_path, JOBS)
    spec = place.job()["spec"] | {"priorityClassName": "system-node-critical"}
    found = plan(spec, kubeconfig=kubeconfig)
    assert found["policy"] == {
        "answer": "unknown",
        "reason": "the limits of the chart cannot be read",
    }
    readers = [{"kind": "Group", "name": "system:authenticated"}]
    rendered = render({"rbac": {"settingsReaders": readers}})
    made = []
    for kind, path in (
        ("ConfigMap", place.path("configmaps")),
        ("Role", f"{RBAC}/namespaces/{place.name}/roles"),
        ("RoleBinding", f"{RBAC}/namespaces/{place.name}/rolebindings"),
    ):
        object_ = rendered.one(kind, NAME)
        object_["metadata"]["namespace"] = place.name
        made.append(place.plane.post(path, object_) | {"kind": kind})
    subject = {"kind": "ServiceAccount", "name": "user", "namespace": place.name}
    wait_until_granted(place.plane, [made[1], {**made[2], "subjects": [subject]}])
    found = plan(spec, kubeconfig=kubeconfig)
    assert (found["policy"]["answer"], found["exitCode"]) == ("no", 4)
    assert "chart value policy.priorityClasses" in found["policy"]["reason"]
    assert found["budget"] is None, "nothing is trained"
    found = plan(spec | {"rerun": "1"}, kubeconfig=kubeconfig)
    assert found["budget"] == {"answer": "unknown", "reason": "no FineTuneBudget can be read"}


def test_the_documented_jobs_comment_the_plan_for_a_cluster_once(
    operator: OperatorProcess, place: Namespace, tmp_path: Path
) -> None:
    repository = Repository(tmp_path)
    config = yaml.safe_load(place.plane.kubeconfig.read_text())
    config["contexts"][0]["context"]["namespace"] = place.name
    kubeconfig = tmp_path / "plan.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    place.plane.post(place.path("finetunejobs"), yaml.safe_load(MANIFEST))
    wait_until("data preparation starts", lambda: len(stages(place)) == 1)
    operator.settled()
    ((revision, stage),) = stages(place)
    assert stage == "prepare"

    with documented_jobs(repository, kubeconfig) as run:
        repository.commit({"jobs/support.yaml": MANIFEST + "  training: {seed: 7}\n"})
        for text in run():
            assert text.startswith("<!-- ftj plan -->\n### Plan of the fine-tuning jobs\n")
            assert "` | `7` | `retrain` |" in text
            assert f"The stage prepare of revision {revision} is stopped." in text
            context = config["current-context"]
            assert text.endswith(f"Compared with the cluster of context {context}.\n")
        repository.remove("jobs/support.yaml")
        for text in run():
            assert "retrain" not in text, "the comment of the first pipeline is edited"
            assert f"FineTuneJob {place.name}/support is in no manifest any more" in text
            assert f"The stage prepare of revision {revision} is stopped." in text


def test_a_changed_profile_is_planned_for_the_jobs_that_the_user_may_list(
    place: Namespace,
    tmp_path: Path,
    limited: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(PROFILE))
    profiles = "/apis/finetune.dev/v1alpha1/finetuneprofiles"
    place.plane.post(profiles, PROFILE)
    place.submit(spec={"profile": "listed"})
    place.submit("without")
    try:
        words = ["plan", str(tmp_path / "profile.yaml"), "--offline", "-o", "json"]
        words += ["-n", place.name, "--kubeconfig"]
        assert ftj.main([*words, str(place.plane.kubeconfig)]) == 0
        said = capsys.readouterr()
        assert [each["name"] for each in json.loads(said.out)["jobs"]] == ["demo"]
        assert said.err == ""
        user = limited(tmp_path, {**JOBS, "verbs": ["get", "list"]})
        assert ftj.main([*words, str(user)]) == 0
        said = capsys.readouterr()
        assert [each["name"] for each in json.loads(said.out)["jobs"]] == ["demo"]
        assert said.err == (
            "warning: you may not list the FineTuneJobs of all namespaces, so the plan has those "
            f"of namespace {place.name} alone\n"
        )
    finally:
        place.plane.delete(f"{profiles}/listed")


PROFILE = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneProfile",
    "metadata": {"name": "listed"},
    "spec": {"description": "one"},
}
