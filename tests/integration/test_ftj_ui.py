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
from tests.integration import limited_user
from tests.support.api_server.controlplane import ControlPlane
from tests.support.api_server.namespace import Namespace

pytestmark = pytest.mark.usefixtures("controller_manager")

RULES = (
    {"apiGroups": ["finetune.dev"], "resources": ["finetunejobs"], "verbs": ["get", "list"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
)
EVIL = "<script>alert(1)</script>"


class Page:
    """A running ``ftj ui``, and a browser that has logged in."""

    def __init__(self, browser: httpx.Client, address: str, code: str) -> None:
        self.address = address
        origin = re.sub(r"(?<=\d)/.*", "", address)
        self.browser = browser
        answer = browser.post(f"{address}login", data={"code": code}, headers={"Origin": origin})
        assert answer.status_code == 303, answer.text

    def text(self, path: str, status: int = 200) -> str:
        answer = self.browser.get(f"{self.address}{path}")
        assert answer.status_code == status, answer.text
        return answer.text


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
