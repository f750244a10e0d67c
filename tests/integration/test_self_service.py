"""Self-service with users of their own: an administrator, an approver, and a member of a team.

All of them have only the rights that the chart and the how-to pages give them; the admission
policies are those of the chart, and the operator is a real process. The tests move the clock that
dates periods. tests/e2e/test_self_service.py has what needs pods.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.fakes import kubelet
from tests.integration import policy
from tests.integration.test_budgets import train_jobs
from tests.support import approvals, moved_clock
from tests.support.api_server import operatorprocess
from tests.support.api_server.controlplane import ControlPlane, wait_until
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.operatorprocess import CONFIG, OperatorProcess
from tests.support.api_server.rbac import RBAC, wait_until_granted, wait_until_revoked
from tests.support.helm import render

pytestmark = pytest.mark.usefixtures("controller_manager")

Thing = dict[str, Any]
ADMINISTRATOR, APPROVER, MEMBER = "ada-of-the-platform", "fay-of-finance", "max-of-the-team"
OWN = "finetune.dev"
CATALOG, APPROVERS = "finetune-operator-catalog", "finetune-operator-approvers"
ROLES = (CATALOG, APPROVERS)
DAY = 86_400
HOURS = 2.0
"""Limit of the GPU time of one job of the small profile; its budget has as much in a day."""
PROFILES: Mapping[str, Thing] = {
    "small": {
        "description": "Models up to 3 billion parameters",
        "card": "NVIDIA-L4",
        "price": {"perGpuHour": "0.80", "currency": "EUR"},
        "defaults": {
            "training": {"sequenceLength": 1024},
            "runPolicy": {"maxGpuSeconds": int(HOURS * 3600)},
        },
        "limits": {"maxSequenceLength": 2048, "maxGpuSeconds": int(HOURS * 3600)},
    },
    "large": {
        "description": "Models up to 8 billion parameters",
        "card": "NVIDIA-A10G",
        "price": {"perGpuHour": "2.00", "currency": "EUR"},
        "limits": {"maxSequenceLength": 4096},
    },
}


@dataclass(frozen=True, kw_only=True)
class Platform:
    """The cluster as its users see it. Names of cluster-scoped objects end with the namespace."""

    plane: ControlPlane
    place: Namespace
    clock: Path

    def kubectl(self, user: str, *words: str, stdin: Thing | None = None) -> str:
        """Run kubectl as a user; return what it prints. Raises AssertionError if it fails."""
        done = self.attempt(user, *words, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def attempt(
        self, user: str, *words: str, stdin: Thing | None = None
    ) -> subprocess.CompletedProcess[str]:
        kubectl = self.plane.assets / "kubectl"
        return subprocess.run(
            [kubectl, f"--kubeconfig={self.plane.kubeconfig}", f"--as={user}", *words],
            input=None if stdin is None else yaml.safe_dump(stdin),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def profile(self, name: str) -> str:
        return f"{name}-{self.place.name}"

    def body(self, kind: str, name: str, spec: Mapping[str, Any], **metadata: Any) -> Thing:
        metadata = {"name": name, **metadata}
        return {"apiVersion": f"{OWN}/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}

    def limit(self, hours: float, **spec: Any) -> None:
        """Let the administrator write the budget."""
        budget = {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.place.name}},
            "period": "Day",
            "currency": "EUR",
            "training": {"gpuHours": hours},
            **spec,
        }
        body = self.body("FineTuneBudget", self.place.name, budget)
        self.kubectl(ADMINISTRATOR, "apply", "-f", "-", stdin=body)

    def submit(self, name: str = "demo", profile: str = "small", **spec: Any) -> Thing:
        """Return three lines about what to train, and a name."""
        written = {
            "profile": self.profile(profile),
            "model": {"source": "hf://acme/base"},
            "dataset": {"source": "hf://acme/rows"},
            **spec,
        }
        return self.body("FineTuneJob", name, written, namespace=self.place.name)

    def apply(self, *arguments: Any, **spec: Any) -> str:
        return self.kubectl(MEMBER, "apply", "-f", "-", stdin=self.submit(*arguments, **spec))

    def status(self, name: str, path: str) -> str:
        """Return a field of the status of a job, as its user reads it."""
        place = f"--namespace={self.place.name}"
        return self.kubectl(MEMBER, "get", "ftj", name, place, "-o", f"jsonpath={{.status.{path}}}")

    def message(self, name: str = "demo") -> str:
        return self.status(name, 'conditions[?(@.type=="Ready")].message')

    def wait_for(self, reason: str, name: str = "demo") -> None:
        wait_until(f"{name} is {reason}", lambda: self.place.reason(name) == reason)

    def prepare(self, name: str, seconds: int) -> None:
        """Complete the prepare pod of a job, which estimates the time of training."""
        pod = self._pod(name, "prepare")
        status = kubelet.completed("prepare")
        (container,) = status["containerStatuses"]
        ended = container["state"]["terminated"]
        result = json.loads(ended["message"])
        result["artifacts"]["trainingSeconds"] = seconds
        ended["message"] = json.dumps(result)
        kubelet.report(self.place, pod, status)

    def train(self, name: str) -> None:
        """Run the train pod of a job to its end."""
        kubelet.report(self.place, self._pod(name, "train"), kubelet.completed("train"))

    def _pod(self, name: str, stage: str) -> Thing:
        def pods() -> list[Thing]:
            return [
                each
                for each in self.place.items("pods")
                if each["metadata"]["labels"].get("finetune.dev/job") == name
                and kubelet.stage_of(each) == stage
                and each["status"]["phase"] == "Pending"
            ]

        wait_until(f"{name} has a {stage} pod", lambda: bool(pods()))
        return pods()[-1]

    def pass_days(self, days: int) -> None:
        """Move the clock of the operator."""
        self.clock.write_text(str(int(self.clock.read_text()) + days * DAY))


def _binding(kind: str, role: str, user: str, name: str, namespace: str = "") -> Thing:
    return {
        "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
        "metadata": {"name": name, **({"namespace": namespace} if namespace else {})},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }


def _rule(resource: str, *verbs: str, names: tuple[str, ...] = ()) -> Thing:
    rule: Thing = {"apiGroups": [OWN], "resources": [resource], "verbs": list(verbs)}
    return {**rule, "resourceNames": list(names)} if names else rule


def _rights(place: str, profiles: list[str]) -> list[Thing]:
    """Return the roles and bindings of all users."""
    chart = render()
    curators: Thing = {
        "kind": "ClusterRole",
        "metadata": {"name": f"curators-{place}"},
        "rules": [_rule("finetuneprofiles", "get", "list", "create", "patch")],
    }
    member = {
        "kind": "Role",
        "metadata": {"name": "tuning", "namespace": place},
        "rules": [
            _rule("finetunejobs", "get", "list", "watch", "create", "patch", "delete"),
            _rule("finetuneprofiles", "use", names=tuple(profiles)),
        ],
    }
    return [
        *(chart.one("ClusterRole", each) for each in ROLES),
        curators,
        member,
        _binding("ClusterRole", APPROVERS, ADMINISTRATOR, f"budgets-{place}"),
        _binding("ClusterRole", curators["metadata"]["name"], ADMINISTRATOR, f"curators-{place}"),
        _binding("ClusterRole", APPROVERS, APPROVER, f"approvals-{place}"),
        _binding("ClusterRole", CATALOG, MEMBER, f"catalog-{place}"),
        _binding("Role", "tuning", MEMBER, "tuning", place),
    ]


def _path(body: Thing) -> str:
    namespace = body["metadata"].get("namespace")
    return (
        f"{RBAC}/" + (f"namespaces/{namespace}/" if namespace else "") + f"{body['kind']}s".lower()
    )


@pytest.fixture(name="platform")
def _platform(control_plane: ControlPlane, place: Namespace, tmp_path: Path) -> Iterator[Platform]:
    """Give the users their rights, and let the administrator write two profiles."""
    clock = tmp_path / "clock"
    clock.write_text("0")
    found = Platform(plane=control_plane, place=place, clock=clock)
    rights = _rights(place.name, [found.profile("small"), found.profile("large")])
    for each in rights:
        control_plane.post(_path(each), each)
    wait_until_granted(control_plane, rights)
    try:
        with policy.installed(control_plane, {}):
            for name, spec in PROFILES.items():
                body = found.body("FineTuneProfile", found.profile(name), spec)
                found.kubectl(ADMINISTRATOR, "apply", "-f", "-", stdin=body)
            wait_until(
                "the limits are known",
                lambda: (
                    policy.rejection(
                        control_plane,
                        place.name,
                        {
                            "profile": found.profile("large"),
                            "training": {"sequenceLength": 8192},
                        },
                    )
                    is not None
                ),
            )
            yield found
    finally:
        for name in PROFILES:
            control_plane.delete(f"/apis/{OWN}/v1alpha1/finetuneprofiles/{found.profile(name)}")
        for each in rights:
            control_plane.delete(f"{_path(each)}/{each['metadata']['name']}")
        wait_until_revoked(control_plane, rights)


@pytest.fixture(name="running")
def _running(platform: Platform, tmp_path: Path) -> Iterator[OperatorProcess]:
    config = {**CONFIG, "usage": {"enabled": True}}
    often = "from finetune_operator import delays; delays.BUDGET = delays.SETTLEMENT = 1.0"
    prelude = moved_clock.prelude(platform.clock) + often
    with operatorprocess.operator(platform.plane, tmp_path, config, prelude=prelude) as running:
        yield running
    platform.plane.delete(f"/apis/{OWN}/v1alpha1/finetunebudgets/{platform.place.name}")


def test_a_member_picks_a_profile_sees_the_price_and_starts_in_the_next_period(
    platform: Platform, running: OperatorProcess
) -> None:
    place = platform.place
    platform.limit(HOURS)
    menu = platform.kubectl(MEMBER, "get", "ftp")
    for name, card, price in (("small", "NVIDIA-L4", "0.80"), ("large", "NVIDIA-A10G", "2.00")):
        (line,) = (each for each in menu.splitlines() if platform.profile(name) in each)
        assert {card, price, "EUR", "True"} <= set(line.split())
    # The member can neither change the offer nor use another one.
    for words in (("delete", "ftp", platform.profile("small")), ("get", "ftb")):
        assert "Forbidden" in platform.attempt(MEMBER, *words).stderr
    refused = platform.attempt(MEMBER, "apply", "-f", "-", stdin=platform.submit(profile="other"))
    assert "no permission to use FineTuneProfile" in refused.stderr

    beyond = platform.submit(training={"sequenceLength": 4096})
    refused = platform.attempt(MEMBER, "apply", "-f", "-", stdin=beyond)
    assert (
        "spec.training.sequenceLength: 4096 is not allowed. At most 2048 is allowed "
        f"(limits.maxSequenceLength of FineTuneProfile {platform.profile('small')})."
    ) in refused.stderr

    assert "demo created" in platform.apply()
    platform.prepare("demo", seconds=3600)
    wait_until("the first job trains", lambda: train_jobs(place) == ["demo"])
    assert platform.status("demo", "profile") == platform.profile("small")

    platform.apply("second")
    platform.prepare("second", seconds=3600)
    platform.wait_for("OverBudget", "second")
    # The price is known, and no GPU is requested.
    assert json.loads(platform.status("second", "cost"))["expectedCost"] == {
        "low": "0.40",
        "high": "1.60",
    }
    assert train_jobs(place) == ["demo"]
    message = platform.message("second")
    assert message.startswith("The job needs 2 GPU-hours (1.60 EUR). FineTuneBudget ")
    assert "The job starts by itself, at the latest about " in message

    platform.train("demo")
    wait_until("the reservation has ended", lambda: place.reason() == "Merging")
    platform.pass_days(1)
    wait_until("the second job trains", lambda: "second" in train_jobs(place))
    assert running.failures() == []


def test_a_job_is_approved_by_another_user_and_an_edit_needs_a_new_approval(
    platform: Platform, running: OperatorProcess
) -> None:
    place = platform.place
    platform.limit(20, approvalAbove={"gpuHours": 1})
    platform.apply()
    platform.prepare("demo", seconds=3600)
    platform.wait_for("ApprovalNeeded")

    def approve(user: str, *entries: Thing) -> str:
        patch = json.dumps({"spec": {"approvals": entries}})
        words = ("patch", "ftb", place.name, "--type=merge", f"--patch={patch}")
        return platform.attempt(user, *words).stderr

    first = approvals.entry_of(platform.message())
    assert (first["namespace"], first["name"], first["maxGpuHours"]) == (place.name, "demo", 2)
    assert "Forbidden" in approve(MEMBER, first)
    assert approve(APPROVER, first) == ""
    wait_until("the job trains", lambda: train_jobs(place) == ["demo"])

    platform.apply(training={"learningRate": 0.0001})
    platform.prepare("demo", seconds=3600)
    platform.wait_for("ApprovalNeeded")
    second = approvals.entry_of(platform.message())
    assert second["revision"] != first["revision"]
    assert second["uid"] == first["uid"]
    assert approve(APPROVER, first, second) == ""
    wait_until("the edited job trains", lambda: place.reason() == "Training")
    assert running.failures() == []


def test_a_larger_budget_starts_the_job(platform: Platform, running: OperatorProcess) -> None:
    platform.limit(1)
    platform.apply()
    platform.prepare("demo", seconds=3600)
    platform.wait_for("ExceedsBudget")
    platform.limit(HOURS)
    wait_until("the job trains", lambda: train_jobs(platform.place) == ["demo"])
    listed = platform.kubectl(ADMINISTRATOR, "get", "ftb", platform.place.name)
    wait_until(
        "the statement shows the reservation",
        lambda: (
            platform.kubectl(ADMINISTRATOR, "get", "ftb", platform.place.name)
            .splitlines()[1]
            .split()[4]
            == "2"
        ),
    )
    assert listed.splitlines()[0].split()[:5] == ["NAME", "PERIOD", "HOURS", "USED", "RESERVED"]
