"""The kubectl and helm commands of README and docs, executed page by page.

Each page has a namespace of its own. The FineTuneJobs that a page names exist in it and serve a
model, unless the page creates them. The controller manager and the operator run; a fake kubelet
ends the pods of the stages. Commands that need a real node are listed below; the
tutorial runs them.
"""

import os
import re
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.api_server import operatorprocess
from tests.support.api_server.controlplane import (
    ApiError,
    ControlPlane,
    has,
    install_crd,
    wait_until,
)
from tests.support.api_server.manifest_files import PAGES, ROOT
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.scenarios import ROUND_SECONDS, ScenarioRunner
from tests.support.helm import over_existing
from tests.support.markdown import blocks

from release.files import first_job

JOB = re.compile(r"\bftj[ /]([a-z0-9-]+)")
SECONDS = 300.0
NOT_HERE = {
    r"\b(logs|exec|port-forward)\b|pod/|delete pod |rollout status": "needs a real node",
    r"pvc support-<revision>|<volume>": "needs a claim that an earlier FineTuneJob left",
    r"oci://|install\.yaml": "needs a release; test_release installs one",
    r" -f crds/": "another field manager, that of the tests, installed the CRD",
    r" -w$": "does not end",
    r"grep NotAllowed": "finds nothing in this cluster",
}
WRITTEN = {"<name>": "support", "<node>": "node-1", " … ": " $CHART ", "$ kubectl": "kubectl"}
"""Placeholders of the docs, and their values here."""
CHART = "charts/finetune-operator --namespace finetune-system"
MONITORING = ("ServiceMonitor", "PodMonitor", "PrometheusRule")
"""Kinds of the Prometheus operator that the chart can create."""


def monitoring_crd(kind: str) -> dict[str, Any]:
    """Return a CRD for a kind of the Prometheus operator, which accepts any object."""
    plural = f"{kind.lower()}s"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "metadata": {"name": f"{plural}.monitoring.coreos.com"},
        "spec": {
            "group": "monitoring.coreos.com",
            "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind},
            "versions": [version],
        },
    }


def commands(page: Path) -> list[str]:
    """Return the lines of a page that start kubectl or helm, with placeholders replaced."""
    text = "".join(blocks(page.read_text(), "", "console"))
    text = text.replace("\\\n", " ")
    for placeholder, value in WRITTEN.items():
        text = text.replace(placeholder, value)
    return [line for line in text.splitlines() if line.startswith(("kubectl ", "helm "))]


def reason(command: str) -> str:
    """Return the reason why a command is not executed, or an empty text."""
    plain = command.partition(" #")[0].rstrip()
    return next((why for text, why in NOT_HERE.items() if re.search(text, plain)), "")


# The page about the installation removes everything at its end.
RUN = {
    str(page.relative_to(ROOT)): run
    for page in sorted(PAGES, key=lambda page: page.stem == "installation")
    if page.stem != "tutorial"
    and (run := [command for command in commands(page) if not reason(command)])
}


class Reader:
    """Executes the commands of the pages, with the prerequisites that the pages name."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.plane, self.folder = plane, folder
        for name in ("charts", "examples", "gitops"):
            (folder / name).symlink_to(ROOT / name)
        (folder / "token.txt").write_text("example\n")
        (folder / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
        (folder / "first-job.yaml").write_text(first_job(ROOT))
        (folder / "job.yaml").write_text((ROOT / "examples" / "first-job.yaml").read_text())

    def page(self, name: str) -> Namespace:
        """Create the namespace of a page, with its jobs; select it for the commands."""
        text = "\n".join(RUN[name])
        place = Namespace(self.plane, "page-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"))
        self.plane.namespace(place.name)
        config = yaml.safe_load(self.plane.kubeconfig.read_text())
        config["contexts"][0]["context"]["namespace"] = place.name
        (self.folder / "kubeconfig").write_text(yaml.safe_dump(config))
        for job in sorted(set(JOB.findall(text))):
            if "first-job.yaml" not in text:
                place.submit(job)
                wait_until(f"{job} serves", partial(self._serves, place, job), SECONDS)
        return place

    @staticmethod
    def _serves(place: Namespace, job: str) -> bool:
        return place.reason(job) == "Serving"

    def run(self, command: str) -> None:
        """Execute a command; fail if it fails."""
        if command.startswith("helm install"):
            self._sh("helm uninstall finetune-operator -n finetune-system --ignore-not-found")
        elif command.startswith("helm") or "deployment finetune-operator" in command:
            self._install()
        elif created := re.match(r"kubectl create configmap (\S+)", command):
            # The page shows this command as an alternative to a file that contains the ConfigMap.
            self._sh(f"kubectl delete configmap {created[1]} --ignore-not-found")
        self._sh(command)

    def _install(self) -> None:
        """Install the chart. The operator of this test has no service account."""
        options = " ".join(("--create-namespace", *over_existing()))
        values = "--set admissionPolicy.protectObjects=false"
        self._sh(f"helm upgrade --install finetune-operator {CHART} {values} {options}")

    def _sh(self, command: str) -> None:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env={
                **os.environ,
                "PATH": f"{self.plane.assets}:{os.environ['PATH']}",
                "KUBECONFIG": str(self.folder / "kubeconfig"),
                "HOME": str(self.folder),
                "CHART": CHART,
            },
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def reader(
    controller_manager: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reader]:
    """A reader of the docs, beside a running operator and a fake kubelet."""
    plane, ended = controller_manager, threading.Event()
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    for kind in MONITORING:
        plane.post(crds, monitoring_crd(kind))
        path = f"/apis/monitoring.coreos.com/v1/{kind.lower()}s"
        wait_until(f"{kind}s are served", partial(has, plane, path))
    plane.post("/api/v1/nodes", {"metadata": {"name": "node-1"}})
    for name in ("argocd", "team-a", "monitoring"):
        plane.namespace(name)
    edit = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    plane.post(
        "/apis/rbac.authorization.k8s.io/v1/namespaces/team-a/rolebindings",
        {
            "metadata": {"name": "alice"},
            "roleRef": edit,
            "subjects": [{"kind": "User", "name": "alice"}],
        },
    )

    def kubelet() -> None:
        runner = ScenarioRunner(plane=plane)
        while not ended.wait(ROUND_SECONDS):
            try:
                runner.round()
            except ApiError as error:
                # The last command of a page deletes the CRD.
                if error.status != 404:
                    raise

    playing = threading.Thread(target=kubelet)
    with operatorprocess.operator(plane, tmp_path_factory.mktemp("operator")):
        playing.start()
        try:
            yield Reader(plane, tmp_path_factory.mktemp("reader"))
        finally:
            ended.set()
            playing.join()
            if not has(plane, "/apis/finetune.dev/v1alpha1/finetunejobs"):
                install_crd(plane)


@pytest.mark.parametrize("page", RUN)
def test_commands_of_a_page(reader: Reader, page: str) -> None:
    reader.page(page)
    for command in RUN[page]:
        reader.run(command)


def test_most_commands_are_executed() -> None:
    listed = [command for page in PAGES for command in commands(page)]
    omitted = [command for command in listed if reason(command)]
    for command in omitted:
        print(f"    not executed, {reason(command)}: {command.strip()}")
    assert len(listed) > 2 * len(omitted)
