"""``ftj ui`` against a real API server, by a user who has rights in one namespace."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from tests.fakes import kubelet, kubelet_server
from tests.support.api_server import limited_user
from tests.support.api_server.controlplane import ControlPlane
from tests.support.api_server.namespace import Namespace

pytestmark = pytest.mark.usefixtures("controller_manager")

RULES = (
    {
        "apiGroups": ["finetune.dev"],
        "resources": ["finetunejobs"],
        "verbs": ["get", "list", "create"],
    },
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["get", "create"]},
)
EVIL = "<script>alert(1)</script>"


class Page:
    """A running ``ftj ui``, and a browser that has logged in."""

    def __init__(self, browser: httpx.Client, address: str, code: str) -> None:
        self.address = address
        origin = re.sub(r"(?<=\d)/.*", "", address)
        self.browser = browser
        self.origin = origin
        answer = browser.post(f"{address}login", data={"code": code}, headers={"Origin": origin})
        assert answer.status_code == 303, answer.text

    def text(self, path: str, status: int = 200) -> str:
        answer = self.browser.get(f"{self.address}{path}")
        assert answer.status_code == status, answer.text
        return answer.text

    def send(self, path: str, form: dict[str, str]) -> httpx.Response:
        token = re.search(r'name="csrf" value="([^"]+)"', self.text(""))
        assert token is not None
        return self.browser.post(
            f"{self.address}{path}",
            data={**form, "csrf": token[1]},
            headers={"Origin": self.origin},
        )


@pytest.fixture
def kubeconfig(place: Namespace, tmp_path: Path) -> Path:
    return limited_user.kubeconfig(place, tmp_path, *RULES)


@pytest.fixture
def page(place: Namespace, kubeconfig: Path) -> Iterator[Page]:
    command = ["-m", "finetune_cli", "ui", "--kubeconfig", str(kubeconfig), "-n", place.name]
    with subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline().split() for _ in range(2)]
            with httpx.Client(timeout=60) as browser:
                yield Page(browser, lines[0][1], lines[1][1])
        finally:
            process.terminate()
            _, err = process.communicate(timeout=60)
        assert "unexpected" not in err
        assert "Traceback" not in err


@pytest.fixture
def other(control_plane: ControlPlane, place: Namespace) -> Iterator[Namespace]:
    """Return a namespace in which the user has no right, with the job concealed."""
    found = Namespace(control_plane, control_plane.namespace(f"{place.name}-other"))
    found.submit("concealed", suspend=True)
    yield found
    control_plane.delete(found.path("finetunejobs"))


def report(place: Namespace, reason: str, message: str) -> None:
    condition = {
        "type": "Ready",
        "status": "False",
        "reason": reason,
        "message": message,
        "observedGeneration": 1,
        "lastTransitionTime": "2026-11-30T10:00:00Z",
    }
    status = {"observedGeneration": 1, "conditions": [condition], "summary": message}
    place.plane.merge(f"{place.path('finetunejobs', 'demo')}/status", {"status": status})


def test_user_sees_what_rbac_allows_and_nothing_else(
    place: Namespace, other: Namespace, page: Page, kubeconfig: Path
) -> None:
    place.submit(suspend=True, annotations={"note": EVIL})
    report(place, "DatasetInvalid", f"row 7 is {EVIL}")
    seen = [page.text("")]
    assert f"Only the jobs of namespace {place.name} are listed" in seen[0]
    assert f"/jobs/{place.name}/demo" in seen[0]
    assert "DatasetInvalid" in seen[0]
    seen.append(page.text(f"?namespace={other.name}", 403))
    assert f"You may not list finetunejobs.finetune.dev in namespace {other.name}." in seen[1]
    seen.append(page.text(f"jobs/{other.name}/concealed", 403))
    assert f"You may not get finetunejobs.finetune.dev in namespace {other.name}." in seen[2]
    seen.append(page.text(f"jobs/{place.name}/demo"))
    assert "row 7 is &lt;script&gt;" in seen[3]
    assert "A row or file of a dataset cannot be used." in seen[3]
    assert f"You may not list events in namespace {place.name}." in seen[3]
    assert "The present stage has no pod." in seen[3]
    seen.append(page.text(f"jobs/{place.name}/demo/yaml"))
    assert "note: &lt;script&gt;" in seen[4]
    seen.append(page.text("usage"))
    assert "You may not list finetunebudgets.finetune.dev in all namespaces." in seen[5]
    seen.append(page.text("profiles"))
    assert "You may not list finetuneprofiles.finetune.dev in all namespaces." in seen[6]
    page.text(f"jobs/{place.name}/absent", 404)
    token = yaml.safe_load(kubeconfig.read_text())["users"][0]["user"]["token"]
    for text in seen:
        assert EVIL not in text
        assert token not in text
    for text in (seen[0], *seen[3:]):
        assert "concealed" not in text
        assert other.name not in text


def test_page_follows_the_job(place: Namespace, page: Page) -> None:
    place.submit(suspend=True)
    report(place, "Pending", "first")
    path = f"{page.address}live/jobs/{place.name}/demo?tab=0123456789ab"
    with page.browser.stream("GET", path) as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        changed = False
        for line in stream.iter_lines():
            if not line.startswith("data: {"):
                continue
            update = json.loads(line.removeprefix("data: "))
            if update["id"] == "state":
                if "second" in update["html"]:
                    break
                assert "first" in update["html"]
                assert not changed
                report(place, "Unschedulable", "second")
                changed = True
    assert changed


def test_list_continues_with_the_token_of_the_server(place: Namespace, page: Page) -> None:
    for at in range(103):
        place.submit(f"job-{at:03}", suspend=True)
    first = page.text("")
    link = re.compile(rf"/jobs/{place.name}/(job-\d+)\"")
    assert len(link.findall(first)) == 100
    assert "Next page (3 more)" in first
    following = re.search(r'href="[^"]*/(\?after=[^"]+)"', first)
    assert following is not None
    last = page.text(following[1].replace("&amp;", "&"))
    assert len(link.findall(last)) == 3
    assert not set(link.findall(first)) & set(link.findall(last))
    found = page.text("?text=JOB-102")
    assert link.findall(found) == ["job-102"]
    assert "103 jobs were searched." in found


def test_job_is_created_from_the_schema_of_the_server(
    place: Namespace, other: Namespace, page: Page
) -> None:
    form = page.text("new")
    assert 'name="training.lora.r"' in form
    assert "Rank of the adapter." in form
    values = {
        "name": "made",
        "namespace": place.name,
        "model.source": "hf://org/base-8b",
        "dataset.source": "hf://org/rows",
        "training.learningRate": "1e-4",
        "suspend": "true",
    }
    answer = page.send("new", values)
    assert answer.status_code == 200
    assert f"{place.name}/made is created, and trained as revision" in answer.text
    assert page.send("new/create", values).status_code == 303
    made = place.job("made")
    assert made["spec"]["training"] == {"learningRate": 0.0001}
    assert made["spec"]["suspend"] is True
    assert made["metadata"]["managedFields"][0]["manager"] == "ftj-ui"
    wrong = page.send("new/create", {**values, "name": "wrong", "training.epochs": "-1"})
    assert wrong.status_code == 502
    assert "epochs" in wrong.text
    denied = page.send("new/create", {**values, "namespace": other.name})
    assert denied.status_code == 403


def test_served_model_is_asked_through_the_port_forward_of_the_user(
    control_plane: ControlPlane, place: Namespace, page: Page
) -> None:
    def endpoint(request: bytes) -> Iterator[bytes]:
        if b"Bearer right" not in request.partition(b"\r\n\r\n")[0]:
            yield b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}"
            return
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        for word in ("Press ", f"{EVIL}\n"):
            yield b"data: %s\n\n" % json.dumps({"choices": [{"delta": {"content": word}}]}).encode()
        yield b"data: [DONE]\n\n"

    place.submit(spec={"serving": {"apiKeySecretRef": {"name": "key", "key": "key"}}})
    serving = {"build": "0a1b2c3d", "model": "demo-model"}
    status = {"status": {"observedGeneration": 1, "serving": serving}}
    place.plane.merge(f"{place.path('finetunejobs', 'demo')}/status", status)
    path = f"jobs/{place.name}/demo"
    assert "API key, which is not stored" in page.text(f"{path}/playground")
    messages = json.dumps([{"role": "user", "content": "How?"}])
    question = {"model": "demo-model", "messages": messages, "tokens": "9"}
    with kubelet_server.node(control_plane, {}, endpoint) as node:
        assert "no pod of FineTuneJob demo answers" in page.send(f"{path}/ask", question).text
        labels = {
            "finetune.dev/job": "demo",
            "finetune.dev/stage": "serve",
            "finetune.dev/build": "0a1b2c3d",
        }
        body = {
            "metadata": {"name": "demo-serve", "labels": labels},
            "spec": {"containers": [{"name": "vllm", "image": "a/b:1"}], "nodeName": node},
        }
        kubelet.report(place, place.plane.post(place.path("pods"), body), kubelet.serving())
        refused = page.send(f"{path}/ask", {**question, "key": "wrong"})
        assert json.loads(refused.text)["problem"].startswith("The endpoint rejects the API key")
        answer = page.send(f"{path}/ask", {**question, "key": "right"})
        assert answer.headers["content-type"].startswith("application/x-ndjson")
        parts = [json.loads(line)["text"] for line in answer.text.splitlines()]
        assert parts == ["Press ", f"{EVIL}\n"]
