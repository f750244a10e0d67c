"""The settings in docs/how-to/gitops.md for Argo CD and Flux, on a real API server.

Flux and the API server both evaluate expressions with cel-go. The tests therefore evaluate the
expressions in a ValidatingAdmissionPolicy that denies every request; its message is their result.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.api_server.controlplane import ApiError, ControlPlane, assets_folder, wait_until
from tests.support.gitops import kstatus, lua
from tests.support.gitops.situations import SITUATIONS, job_in

ROOT = Path(__file__).parents[2]
JOBS = {name: job_in(name) for name in SITUATIONS}
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
POLICIES = f"{ADMISSION}/validatingadmissionpolicies"
BINDINGS = f"{ADMISSION}/validatingadmissionpolicybindings"
# A kind without a schema, so that the API server does not change the job.
HOLDER = {"apiVersion": "apps/v1", "kind": "ControllerRevision", "revision": 1}
TELLS = re.compile(r"\[(Failed|Current|InProgress)\]$")


def blocks(chapter: str) -> list[str]:
    """Return the code of a chapter of the page."""
    page = (ROOT / "docs" / "how-to" / "gitops.md").read_text()
    (text,) = re.findall(rf"^## {chapter}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    return re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)


@pytest.fixture(scope="module")
def customizations(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Apply the command of the page to a ConfigMap ``argocd-cm`` with data; return the new data."""
    plane = control_plane
    plane.namespace("argocd")
    body = {"metadata": {"name": "argocd-cm"}, "data": {"url": "https://argocd.example.com"}}
    plane.post("/api/v1/namespaces/argocd/configmaps", {"apiVersion": "v1", **body})
    command = blocks("Argo CD")[0]
    assert command.startswith("kubectl -n argocd ")
    path = f"{assets_folder()}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=ROOT,
        env={**os.environ, "PATH": path, "KUBECONFIG": str(plane.kubeconfig)},
        check=True,
        timeout=600,
    )
    found = plane.get("/api/v1/namespaces/argocd/configmaps/argocd-cm")
    assert found["data"].pop("url") == "https://argocd.example.com"
    return found["data"]


def test_argo_cds_settings_are_the_tested_scripts(customizations: dict[str, str]) -> None:
    health = customizations.pop("resource.customizations.health.finetune.dev_FineTuneJob")
    assert health == (lua.SCRIPTS / "health.lua").read_text()
    actions = yaml.safe_load(
        customizations.pop("resource.customizations.actions.finetune.dev_FineTuneJob")
    )
    folder = lua.SCRIPTS / "actions"
    assert actions.pop("discovery.lua") == (folder / "discovery.lua").read_text()
    assert {each["name"]: each["action.lua"] for each in actions.pop("definitions")} == {
        path.parent.name: path.read_text() for path in folder.glob("*/action.lua")
    }
    assert not customizations
    assert not actions


@pytest.fixture(scope="module")
def flux(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """A function that evaluates the expressions of the page for a job, like Flux."""
    (check,) = yaml.safe_load(blocks("Flux")[0])["healthCheckExprs"]
    assert (check.pop("apiVersion"), check.pop("kind")) == (
        "finetune.dev/v1alpha1",
        "FineTuneJob",
    )
    # In the order of Flux. The expressions refer to the fields of the object by name.
    said = "'InProgress'"
    for status in ("current", "failed", "inProgress"):
        if expression := check.pop(status, None):
            said = f"({expression}) ? '{status[0].upper()}{status[1:]}' : ({said})"
    assert not check
    for name in ("status", "metadata"):
        said = f"[dyn(object.data.{name})].map({name}, {said})[0]"
    rule = {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["controllerrevisions"]}
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [{**rule, "operations": ["CREATE"]}]},
        "validations": [{"expression": "false", "messageExpression": f"'[' + {said} + ']'"}],
    }
    kind = "ValidatingAdmissionPolicy"
    head = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": "flux"}}
    control_plane.post(POLICIES, {**head, "kind": kind, "spec": spec})
    binding = {"policyName": "flux", "validationActions": ["Deny"]}
    control_plane.post(BINDINGS, {**head, "kind": f"{kind}Binding", "spec": binding})
    try:
        wait_until("the policy is enforced", lambda: "denied" in answer(control_plane, {}))
        yield control_plane
    finally:
        control_plane.delete(f"{BINDINGS}/flux")
        control_plane.delete(f"{POLICIES}/flux")


def answer(plane: ControlPlane, job: dict[str, Any]) -> str:
    """Return the message of the denial."""
    body = {**HOLDER, "metadata": {"name": "held"}, "data": job}
    path = "/apis/apps/v1/namespaces/default/controllerrevisions?dryRun=All"
    try:
        plane.post(path, body)
    except ApiError as error:
        return str(error)
    return "admitted"


@pytest.mark.parametrize("name", SITUATIONS)
def test_flux_reports_as_kstatus_except_for_a_suspended_job(name: str, flux: ControlPlane) -> None:
    job = JOBS[name]
    if job["status"]["observedGeneration"] != job["metadata"]["generation"]:
        # Flux evaluates no expression in this case (RFC 0009).
        assert kstatus.of(job) == "InProgress"
        return
    message = answer(flux, job)
    found = TELLS.search(message)
    assert found is not None, message
    paused = name in ("suspended", "suspended-before-start")
    assert found[1] == ("Current" if paused else kstatus.of(job))
