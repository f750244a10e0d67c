"""From the form to an answer of a tuned model in the page of the chart, by two users.

The page is a pod of the chart's Deployment, which users reach as docs/how-to/page-for-a-team.md
says: with a port-forward, and pasted tokens. tests/page/test_lifecycle.py has the same steps with
an API server and without training.
"""

import csv
import io
import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import yaml
from playwright.sync_api import Browser, Page, expect
from tests.e2e.authors import wait_for_right
from tests.support import helm, ports
from tests.support.browser import two_users, window
from tests.support.browser.two_users import (
    CONCEALED,
    JOB,
    READ,
    TUNE,
    Rule,
    behind_proxy,
    logged_in,
)
from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.target import OPERATOR, Cluster, namespaces
from tests.support.local_cluster.tuning import SMALL, Tuning, small

from cluster import install

pytestmark = pytest.mark.exhaustive

browser = window.browser
PAGE, TUNERS, READERS = "e2e-page", "e2e-page-tuners", "e2e-page-readers"
SECONDS = 900.0
ANSWER_MILLISECONDS = 300_000
"""vLLM answers slowly on a CPU."""
STEPS = SMALL["training"]["maxSteps"]
USER = "user"
PNG = b"\x89PNG"


@pytest.fixture
def address(cluster: Cluster) -> Iterator[str]:
    """Run the page of the chart, and return its address behind a port-forward."""
    port = ports.free_port()
    url = f"http://127.0.0.1:{port}"
    values = {
        "image": install.split_image(cluster.operator_image()),
        "page": {"enabled": True, "urls": [url]},
    }
    command = ["template", OPERATOR, str(helm.CHART), f"--namespace={PAGE}"]
    rendered = helm.run(*command, "--show-only=templates/page.yaml", values=values)
    with namespaces(cluster, PAGE, TUNERS, READERS):
        cluster.kubectl.apply(*yaml.safe_load_all(rendered))
        rollout = ("rollout", "status", f"deployment/{OPERATOR}-page", f"--namespace={PAGE}")
        cluster.kubectl.run(*rollout)
        with _forwarded(cluster, port):
            yield f"{url}/"


def test_two_users_with_different_rights(
    browser: Browser, cluster: Cluster, address: str, figures: list[str]
) -> None:
    tokens = [_token(cluster, TUNERS, *TUNE), _token(cluster, READERS, *READ)]
    job = Tuning(cluster=cluster, namespace=TUNERS, name=JOB)
    Tuning(cluster=cluster, namespace=READERS, name=CONCEALED).apply(small(suspend=True))
    with ExitStack() as stack:
        alice = logged_in(browser, stack, address, tokens[0])
        bob = behind_proxy(browser, stack, address, tokens[1])
        began = time.monotonic()
        two_users.create(alice.page, address, TUNERS, dict(_fields(SMALL)))
        # The open page follows the job: nothing loads it again.
        expect(alice.page.locator("#state")).to_contain_text("Training", timeout=SECONDS * 1000)
        job.wait_until("Ready", reason="Serving", seconds=SECONDS)
        expect(alice.page.locator("#state")).to_contain_text("Serving")
        figures.append(f"page: served {time.monotonic() - began:.0f} s after the form was opened")
        _see_results(alice.page, job)
        two_users.ask(alice.page, address, TUNERS, "What is nginx?")
        outcome = alice.page.locator("#outcome")
        expect(outcome).to_contain_text("Answered in", timeout=ANSWER_MILLISECONDS)
        figures.append(f"page: the playground says: {outcome.inner_text()}")
        assert alice.page.locator("#turns li").last.inner_text().strip()
        assert CONCEALED not in alice.page.content()

        two_users.kept_out(bob, alice, address, TUNERS, READERS)
        assert [_jobs(cluster, place) for place in (TUNERS, READERS)] == [[JOB], [CONCEALED]]

        account = ("serviceaccount", USER, TUNERS)
        two_users.logged_out(alice, address, TUNERS, lambda: cluster.kubectl.delete(*account))
        bob.page.goto(address)
        expect(bob.page.get_by_role("link", name=CONCEALED)).to_be_visible()
    assert alice.problems == []


def _see_results(page: Page, job: Tuning) -> None:
    """See the proof of the served model, and the loss of each step."""
    proof = job.status()["verification"]
    assert proof["outcome"] == "Verified"
    expect(page.locator("#verification")).to_contain_text(f"distance {proof['distance']}")
    expect(page.locator("#losses svg")).to_be_visible()
    text = page.request.get(f"{page.url}/curve.csv").text()
    steps = {int(row["step"]) for row in csv.DictReader(io.StringIO(text)) if row["loss"]}
    assert steps == set(range(1, STEPS + 1))
    assert page.request.get(f"{page.url}/curve.png").body().startswith(PNG)


def _fields(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the fields of the form, and what is typed into each."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value if isinstance(value, str) else json.dumps(value)


def _token(cluster: Cluster, namespace: str, *rules: Rule) -> str:
    """Return the token of a new user with these rights in a namespace."""
    group = "rbac.authorization.k8s.io"
    metadata = {"name": USER, "namespace": namespace}
    user = {"kind": "ServiceAccount", "name": USER, "namespace": namespace}
    objects: tuple[Object, ...] = (
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": USER},
            "subjects": [user],
        },
    )
    cluster.kubectl.apply(*objects)
    account = f"system:serviceaccount:{namespace}:{USER}"
    wait_for_right(cluster, namespace, account, "list", "finetunejobs.finetune.dev")
    return cluster.kubectl.run("create", "token", USER, f"--namespace={namespace}").strip()


def _jobs(cluster: Cluster, namespace: str) -> list[str]:
    listed = cluster.kubectl.run("get", "ftj", f"--namespace={namespace}", "-o", "json")
    return [str(job["metadata"]["name"]) for job in json.loads(listed)["items"]]


@contextmanager
def _forwarded(cluster: Cluster, port: int) -> Iterator[None]:
    """Forward a port to the Service of the page in the block."""
    service = f"service/{OPERATOR}-page"
    words = cluster.kubectl.command("port-forward", service, f"{port}:80", f"--namespace={PAGE}")
    command = ["setpriv", "--pdeathsig", "KILL", "--", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forward:
        try:
            assert forward.stdout is not None
            # "Forwarding from 127.0.0.1:20001 -> 8080"
            assert "Forwarding" in forward.stdout.readline()
            yield
        finally:
            forward.terminate()
