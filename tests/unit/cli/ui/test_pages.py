"""What the pages show of the example objects."""

import copy
import re
from collections.abc import Callable
from html import escape
from html.parser import HTMLParser
from typing import Any

import pytest
from tests.support.example_page import ALL_JOBS, PREFIX, Objects
from tests.unit.cli.ui.conftest import Start

from clidocs import example_cluster
from clidocs.example_endpoints import ENDPOINTS
from clidocs.example_jobs import EARLIER, NO_GPU, OUT_OF_MEMORY, PRESENT
from clidocs.example_objects import BATCH, CORE, JOBS
from finetune_cli.cluster import remedies
from finetune_cli.cluster.api import Cluster
from finetune_cli.ui.reading import jobs

FIRST_VIEW_BYTES = 150_000
VELMORA = "/jobs/team-a/velmora"


class Outline(HTMLParser):
    """The parts of a document that a screen reader offers."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def count(self, *tags: str) -> list[int]:
        return [len(self.all(tag)) for tag in tags]


async def test_list_names_each_job_with_its_state(start: Start) -> None:
    pages = await start()
    text = await pages.text("/")
    for name, kind, state in (
        ("billing", "waiting", "Unschedulable"),
        ("support", "bad", "CUDAOutOfMemory"),
    ):
        assert f'<a href="{PREFIX}/jobs/team-a/{name}">{name}</a>' in text
        assert f'<span class="state {kind}">{state}</span>' in text
    assert '<span class="state good">Serving</span>' in text
    assert "context demo" in text


async def test_list_has_the_operators_message_or_else_the_meaning_of_the_state(
    start: Start, objects: Objects
) -> None:
    """An older operator writes no message into the table."""
    del named("support", objects)["status"]["summary"]
    text = await (await start()).text("/")
    assert NO_GPU in text
    meaning = remedies.meaning("CUDAOutOfMemory")
    assert meaning is not None
    assert meaning in text
    assert 'scope="col" role="columnheader">Serving revision</th>' in text


async def test_list_is_filtered(start: Start) -> None:
    pages = await start()
    cases: tuple[tuple[str, list[str]], ...] = (
        ("?text=SUPP", ["support"]),
        ("?state=ready", ["velmora"]),
        ("?state=not-ready", ["billing", "support"]),
        ("?text=CUDA", ["support"]),
        ("?namespace=team-a&text=velmora", ["velmora"]),
        ("?text=nothing", []),
    )
    for query, shown in cases:
        text = await pages.text(f"/{query}")
        names = ("billing", "support", "velmora")
        assert [each for each in names if f"/jobs/team-a/{each}" in text] == shown, query
        assert "3 jobs were searched." in text


async def test_list_continues_on_the_next_page(start: Start, objects: Objects) -> None:
    objects[ALL_JOBS] = many(250, objects)
    pages = await start()
    first = await pages.text("/")
    assert first.count("/jobs/team-a/job-") == 100
    assert "Next page (150 more)" in first
    assert f'href="{PREFIX}/?after=100"' in first
    last = await pages.text("/?after=200")
    assert last.count("/jobs/team-a/job-") == 50
    assert "Next page" not in last
    assert "First page" in last


async def test_only_the_first_page_is_live(start: Start, objects: Objects) -> None:
    """A token of the API server continues the list as it was, so it would show no change."""
    objects[ALL_JOBS] = many(250, objects)
    pages = await start()
    assert "data-stream" in await pages.text("/")
    assert "data-stream" not in await pages.text("/?after=100")


async def test_page_whose_token_has_expired_leads_to_the_first_one(
    start: Start, cluster: Callable[[], Cluster]
) -> None:
    class Compacted(Cluster):
        def table(self, path: str, **query: Any) -> dict[str, Any]:
            raise self._refusal(410, b'{"message": "The provided continue parameter is too old"}')

    user = cluster()
    pages = await start(
        user=Compacted(api=user.api, namespace=user.namespace, context=user.context)
    )
    answer = await pages.get("/?text=a+b&after=100")
    assert (answer.status, answer.headers["Location"]) == (303, f"{PREFIX}/?text=a+b")
    await pages.text("/?text=a", 502)


async def test_filtered_page_ends_at_the_row_where_the_next_one_begins(
    start: Start, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PER_PAGE", 10)
    objects[ALL_JOBS] = many(90, objects)
    for at, each in enumerate(objects[ALL_JOBS]):
        each["metadata"]["name"] += "-shown" if at % 3 else ""
    pages = await start()
    names: list[str] = []
    after = ""
    for _ in range(9):
        text = await pages.text(f"/?text=-shown{after}")
        links = [each["href"] or "" for each in Outline(text).all("a")]
        found = [each for each in links if "/jobs/" in each]
        assert len(found) <= 10
        names += found
        following = [each for each in links if "after=" in each]
        after = f"&after={following[-1].rpartition('after=')[2]}" if following else ""
        if not after:
            break
    assert len(names) == len(set(names)) == 60


def named(name: str, objects: Objects) -> dict[str, Any]:
    return next(each for each in objects[JOBS] if each["metadata"]["name"] == name)


def many(count: int, objects: Objects) -> list[dict[str, Any]]:
    """Return copies of a job under other names."""
    made = []
    for at in range(count):
        job = copy.deepcopy(objects[JOBS][at % 3])
        job["metadata"] |= {"name": f"job-{at:04}", "uid": f"uid-{at}"}
        made.append(job)
    return made


async def test_page_says_why_a_job_waits_and_what_to_do(start: Start) -> None:
    text = await (await start()).text("/jobs/team-a/billing")
    assert NO_GPU in text
    assert "What to do" in text
    assert "Unschedulable" in text
    assert "for 8m00s" in text
    assert "(empty)" in text, "the log of a pod without a node"


@pytest.mark.parametrize("node", [None, "gpu-1"])
async def test_attempt_waits_until_its_pod_has_a_node(
    start: Start, objects: Objects, node: str | None
) -> None:
    job, pod = named("billing", objects), objects[f"{CORE}/pods"][1]
    job["status"]["revisions"][0]["estimate"] = {"trainingSeconds": 1200}
    pod["spec"]["nodeName"] = node
    text = await (await start()).text("/jobs/team-a/billing")
    cells = re.sub(r' role="[a-z]*"( data-label="[^"]*")?|</?div>', "", text)
    assert '<th scope="row">time of training</th><td>20m00s</td><td>-</td>' in cells
    waits = '<td><span class="state waiting">Waiting</span></td><td>1</td><td>waited 8m00s</td>'
    assert (waits in cells) == (node is None)
    assert ("<title>train: 8m00s</title>" in text) == (node is not None)
    assert ('class="bar waiting"' in text) == (node is None)


async def test_message_that_has_the_meaning_of_the_state_is_not_repeated(
    start: Start, objects: Objects
) -> None:
    meaning = remedies.meaning("Unschedulable")
    assert meaning is not None
    ready = named("billing", objects)["status"]["conditions"][0]
    pages = await start()
    assert f"<dd>{escape(meaning)}</dd>" in await pages.text("/jobs/team-a/billing")
    ready["message"] = f"Pod billing-train-x7k2p: {meaning}"
    text = await (await start()).text("/jobs/team-a/billing")
    assert escape(ready["message"]) in text
    assert "<dt>Meaning</dt>" not in text


async def test_page_of_a_failure_has_its_stages_warnings_events_and_log(start: Start) -> None:
    text = await (await start()).text("/jobs/team-a/support")
    assert OUT_OF_MEMORY in text
    assert "dataset.maxSamples leaves out 12 of 1,212 rows." in text
    assert "<title>train: 7m00s</title>" in text
    assert "1 disruption" in text
    assert "pod support-train-x7k2p, container trainer" in text
    assert "step 74 needs more GPU memory" in text
    assert '<th scope="row" role="rowheader">2026-03-02 09:18:00</th>' in text
    assert "terminated with exit code 80" in text


async def test_page_of_a_served_job_has_its_results(start: Start) -> None:
    text = await (await start()).text(VELMORA)
    assert "Training loss and held-out loss by step" in text
    assert text.count('class="line curve') == 2
    assert ">distance 0.012 of 0.034 nats allowed (35%; smaller is better)</p>" in text
    assert '<small class="quiet">0.012 of 0.034 nats</small>' in text
    assert f"<dd>5e8a1f00 of revision {PRESENT}</dd>" in text
    assert 'class="bar good"' in text
    for words in ("2.4103", "1.9294", "-0.4809", "0.031", "120 held-out rows"):
        assert words in text
    cells = re.sub(r' role="[a-z]*"( data-label="[^"]*")?|</?div>', "", text)
    whole = '<span class="whole">{}</span>'
    cost = [whole.format(amount) for amount in ("0.41 to 1.94 EUR", "0.82 EUR")]
    assert f"<td>{cost[0]}</td><td>{cost[1]}</td>" in cells
    assert f"within the expected {cost[0]}, training only" in text
    assert "<td>-</td><td>0.68</td>" in cells
    uses = f'<th scope="row">{PRESENT}</th><td><span class="state good">serving</span> current spec'
    assert uses in cells
    assert f'<th scope="row">{EARLIER}</th><td></td>' in cells
    assert f"<dt>Revision</dt><dd>{PRESENT}</dd>" in text
    assert "<dt>Serving</dt>" not in text, "it is the revision"


async def test_distance_above_its_tolerance_is_marked(start: Start, objects: Objects) -> None:
    named("velmora", objects)["status"]["verification"]["distance"] = "0.05"
    text = await (await start()).text(VELMORA)
    assert 'class="bar bad"' in text
    assert "0.05 of 0.034 nats allowed (147%; smaller is better)" in text


async def test_verification_without_a_distance_says_so(start: Start, objects: Objects) -> None:
    named("velmora", objects)["status"]["verification"] = {"outcome": "Skipped", "build": "0a1b"}
    text = await (await start()).text(VELMORA)
    assert "The distance was not recorded." in text
    assert '<small class="quiet">the distance was not recorded</small>' in text
    assert "<dd>0a1b</dd>" in text, "no revision of the ledger has the build"
    assert 'class="gauge"' not in text


@pytest.mark.parametrize(
    ("bounds", "outcome", "words"),
    [
        (("0.41", "0.80"), "Completed", "above the expected "),
        (("0.82", "0.90"), "Completed", "within the expected "),
        (("0.83", "0.90"), "Completed", "below the expected "),
        (("0.83", "0.90"), "Running", '<span class="quiet">expected '),
    ],
)
async def test_cost_is_compared_with_the_expected_one_after_training(
    start: Start, objects: Objects, bounds: tuple[str, str], outcome: str, words: str
) -> None:
    status = named("velmora", objects)["status"]
    status["cost"]["expectedCost"] = dict(zip(("low", "high"), bounds, strict=True))
    status["revisions"][1]["stages"][1]["outcome"] = outcome
    text = await (await start()).text(VELMORA)
    assert f'{words}<span class="whole">{bounds[0]} to {bounds[1]} EUR</span>' in text


async def test_difference_of_two_revisions(start: Start) -> None:
    text = await (await start()).text(f"{VELMORA}/diff?first={EARLIER}&second={PRESENT}")
    cells = re.sub(r' role="[a-z]*"( data-label="[^"]*")?|</?div>', "", text)
    assert '<th scope="row">training.epochs</th><td>2</td><td>3</td>' in cells
    assert "training.learningRate" in text
    assert "2.1518" in text
    unknown = await (await start()).text(f"{VELMORA}/diff?first={EARLIER}&second=0000", 502)
    assert "has no revision 0000" in unknown


async def test_endpoints_have_the_proof_of_each_name(start: Start) -> None:
    pages = await start()
    text = await pages.text("/endpoints")
    assert f'href="{PREFIX}/endpoints/team-a/assistants"' in text
    assert "2/3" in text
    text = await pages.text("/endpoints/team-a/assistants")
    assert "Name tickets was not verified" in text
    assert len(re.findall(r"</svg>distance 0\.\d+ of 0\.034 nats allowed", text)) == 3
    assert text.count('class="bar good"') == 2
    assert text.count('class="bar bad"') == 1
    assert f'href="{PREFIX}/jobs/team-a/tickets"' in text
    missing = await pages.text("/endpoints/team-a/absent", 404)
    assert "FineTuneEndpoint absent does not exist in namespace team-a." in missing


async def test_name_that_an_earlier_adapter_answers_for_is_marked(
    start: Start, objects: Objects
) -> None:
    (endpoint,) = objects[ENDPOINTS]
    endpoint["status"]["models"][0]["answers"] = "e1" * 32
    text = await (await start()).text("/endpoints/team-a/assistants")
    assert text.count("An earlier adapter answers.") == 1


async def test_object_is_shown_as_yaml_without_managed_fields(
    start: Start, objects: Objects
) -> None:
    for each in objects[JOBS]:
        each["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    text = await (await start()).text(f"{VELMORA}/yaml")
    assert "kind: FineTuneJob\n" in text
    assert "managedFields" not in text


async def test_curve_is_downloaded(start: Start) -> None:
    pages = await start()
    answer = await pages.get(f"{VELMORA}/curve.csv")
    assert answer.content_type == "text/csv"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="velmora-curve.csv"'
    lines = (await answer.text()).splitlines()
    assert lines[0] == "revision,step,loss,evalLoss,learningRate,tokensPerSecond"
    assert lines[1].startswith(f"{PRESENT},1,")
    drawn = await pages.get(f"{VELMORA}/curve.svg")
    assert drawn.content_type == "image/svg+xml"
    assert (await drawn.text()).startswith("<svg ")
    picture = await pages.get(f"{VELMORA}/curve.png")
    assert picture.content_type == "image/png"
    assert picture.headers["Content-Disposition"] == 'attachment; filename="velmora-curve.png"'
    assert (await picture.read()).startswith(b"\x89PNG")
    losses = await pages.text(VELMORA)
    assert all(f'{VELMORA}/curve.{kind}"' in losses for kind in ("csv", "svg", "png"))
    missing = await pages.text("/jobs/team-a/billing/curve.csv", 404)
    assert "No loss is known" in missing


async def test_budgets_usage_and_profiles(start: Start, objects: Objects) -> None:
    account = {"limit": "500.00", "used": "420.50", "reserved": "0", "remaining": "79.50"}
    conditions = [{"type": "Exhausted", "status": "False", "reason": "NearLimit"}]
    not_valid = {"status": "Unknown", "reason": "UsageDisabled"}
    objects["/apis/finetune.dev/v1alpha1/finetunebudgets"] = [
        {
            "metadata": {"name": "team-a"},
            "spec": {"currency": "EUR", "serving": {"maxGpus": 7}},
            "status": {
                "periodEnd": "2026-04-01T00:00:00Z",
                "training": {"cost": account, "gpuHours": {"used": "3.25", "reserved": "0"}},
                "serving": {"gpus": 2, "maxGpus": 7},
                "conditions": conditions,
            },
        },
        {
            "metadata": {"name": "not-valid"},
            "spec": {"training": {"maxRunning": 2}},
            "status": {"conditions": [{**conditions[0], **not_valid}]},
        },
    ]
    pages = await start()
    text = await pages.text("/usage")
    for words in ("EUR of training", "420.50", "79.50", "NearLimit", "2026-03", "3.44 EUR"):
        assert words in text
    rest = re.search(r"GPUs of serving.*?</tr>", text, re.DOTALL)
    assert rest is not None
    assert re.findall(r"<div>([^<]+)</div>", rest[0]) == ["7", "2", "-", "5"]
    assert "GPU-hours of training</div>" not in text, "without a limit"
    assert set(re.findall(r'class="state (\w+)">(\w+)<', text)) == {
        ("good", "NearLimit"),
        ("bad", "UsageDisabled"),
    }
    text = await pages.text("/profiles")
    for words in ("small", "models up to 8B", "NVIDIA-A10G", "1.20 EUR", "yes"):
        assert words in text


async def test_cluster_without_budgets_is_no_error(start: Start, objects: Objects) -> None:
    del objects["/apis/finetune.dev/v1alpha1/finetunebudgets"]
    text = await (await start()).text("/usage")
    assert "The cluster has no finetunebudgets.finetune.dev" in text


async def test_job_before_its_first_reconcile_has_a_page(start: Start, objects: Objects) -> None:
    for each in objects[JOBS]:
        del each["status"]
    text = await (await start()).text("/jobs/team-a/billing")
    assert "The operator has not reconciled" in text
    assert "No stage has begun." in text


async def test_pages_have_landmarks_headings_captions_and_labels(start: Start) -> None:
    pages = await start()
    for path in ("/", VELMORA, "/jobs/team-a/support", "/usage", "/profiles", f"{VELMORA}/yaml"):
        text = await pages.text(path)
        outline = Outline(text)
        assert outline.count("main", "h1", "header", "title")[:3] == [1, 1, 1], path
        assert outline.all("html") == [{"lang": "en"}]
        assert len(outline.all("table")) == len(outline.all("caption"))
        assert all(each.get("aria-label") for each in outline.all("nav"))
        assert all(each.get("aria-label") for each in outline.all("svg"))
        assert all(each.get("scope") for each in outline.all("th"))
        assert '<th scope="col"></th>' not in text
        assert all(each.get("aria-label") for each in outline.all("section"))
        fields = [each for each in outline.all("input") if each.get("type") != "hidden"]
        fields += outline.all("select")
        assert len(fields) == len(outline.all("label"))
        ids = [each["id"] for _, each in outline.tags if each.get("id")]
        assert len(ids) == len(set(ids))
        live = [each for _, each in outline.tags if each.get("role") == "status"]
        assert len(live) == 1, "one short text is read aloud, no table or log"


async def test_first_view_is_small(start: Start, objects: Objects) -> None:
    objects[ALL_JOBS] = many(150, objects)
    pages = await start()
    sizes = {}
    for path in ("/", VELMORA):
        paths = (path, "/static/ui.css", "/static/ui.js", "/static/icon.svg")
        sizes[path] = sum([len(await (await pages.get(each)).read()) for each in paths])
    print(sizes)
    assert max(sizes.values()) < FIRST_VIEW_BYTES


async def test_end_of_a_long_log_is_shown(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    log = "".join(f"line {at} {'x' * 1000}\n" for at in range(100))
    monkeypatch.setattr(example_cluster, "LOG", log)
    text = await (await start()).text("/jobs/team-a/support")
    assert "line 99 xxx" in text
    assert "line 9 xxx" not in text
    assert len(text) < 60_000


async def test_end_of_long_lines_is_shown(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    log = "".join(f"{'x' * 20_000} line {at} of 100\n" for at in range(100))
    monkeypatch.setattr(example_cluster, "LOG", log)
    text = await (await start()).text("/jobs/team-a/support")
    assert "line 99 of 100" in text
    assert len(text) < 60_000


async def test_job_without_pods_says_so(start: Start, objects: Objects) -> None:
    objects[f"{CORE}/pods"] = []
    objects[BATCH] = []
    text = await (await start()).text("/jobs/team-a/support")
    assert text.count("The present stage has no pod.") == 2


async def test_playground_has_the_names_of_a_shared_job_and_asks_for_a_key(
    start: Start, objects: Objects
) -> None:
    job = next(each for each in objects[JOBS] if each["metadata"]["name"] == "support")
    job["status"]["sharedModel"] = {"endpoint": "assistants", "names": ["help", "help-de"]}
    (endpoint,) = objects[ENDPOINTS]
    endpoint["spec"]["access"] = {"keysSecretRef": {"name": "keys"}}
    pages = await start()
    assert "/jobs/team-a/support/playground" in await pages.text("/jobs/team-a/support")
    text = await pages.text("/jobs/team-a/support/playground")
    assert '<option value="help">help</option><option value="help-de">help-de</option>' in text
    assert "API key, which is not stored" in text
    text = await pages.text("/jobs/team-a/billing/playground")
    assert "FineTuneJob billing serves no model at present." in text
