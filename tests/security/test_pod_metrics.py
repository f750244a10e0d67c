"""Metrics of hostile pods: bounded in time, size and value, and read only from pods of the job."""

import asyncio
import gzip
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import CONFIG, Cluster
from tests.fakes.kube_client import child, job
from tests.support.busy_machine import fastest, seconds_without_core

from finetune_api.contracts.result import Result
from finetune_operator.objects.index import index
from finetune_operator.snapshot.scraping import exposition, http, scraper, verifier_metrics
from finetune_operator.snapshot.scraping.scraper import Scraper
from finetune_operator.snapshot.scraping.targets import Target, targets
from finetune_operator.types import Key, PodProgress, Snapshot
from finetune_operator.workqueue.workqueue import WorkQueue

pytestmark = pytest.mark.finding(3, "metrics of a hostile pod block or mislead the operator")

UID = "uid-1"
IDENTITY = b'finetune_pod_info{uid="uid-1"} 1.0\n'
STEP = b"finetune_global_step 7\n"
GZIP = b"HTTP/1.0 200 OK\r\nContent-Encoding: gzip\r\n\r\n"
OK = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n"
MOST = http.MAX_HEADER_BYTES + http.MAX_BODY_BYTES
LIMIT_SECONDS = 0.05
"""No input may block the event loop for longer."""
MIB = 1 << 20

Handler = Callable[[asyncio.StreamWriter], Awaitable[None]]

BODIES: dict[str, bytes] = {
    "gzip bomb": gzip.compress(b"#" + b" " * (10 * MIB) + "💣".encode()),
    "comment of spaces": b"#" + b" " * MIB + "💣".encode() + b"\n",
    "escaped quotes": b'finetune_pod_info{uid="' + b'\\"' * (MIB // 2) + b'"} 1\n',
    "open braces": b"finetune_global_step{" * (MIB // 21),
    "empty lines": b"\n" * MIB,
    "a line of a MiB": b"finetune_global_step " + b"1" * MIB + b"\n",
    "long name": b"finetune_" + b"a" * MIB + b" 1\n",
    "names without numbers": b"finetune_global_step\n" * (MIB // 21),
    "almost series": (b"finetune_global_step " + b"1" * 24 + b"." + b"1" * 24 + b"e+9x\n") * 20_000,
    "many series": b"".join(b"finetune_a%s 1\n" % (b"b" * (n % 40)) for n in range(60_000)),
    "digits": (b"9" * 1000 + b"\n") * 1000,
    "binary": bytes(range(256)) * 4096,
    "html": b"<html>" * (MIB // 6),
}


def _fitting(text: bytes) -> bytes:
    """Return a response that passes every limit and contains as much of a text as possible."""
    return OK + IDENTITY + STEP + text[: http.MAX_BODY_BYTES - 200].rpartition(b"\n")[0] + b"\n"


def _own_seconds() -> float:
    """Return a time that stops while this thread, in which pod and operator run, has no core."""
    return time.monotonic() - seconds_without_core("thread-self")


def _cpu_seconds(response: bytes) -> float:
    """Return the time that a response takes in the event loop; other processes do not count."""
    began = time.process_time()
    if (text := http.body(response)) is not None:
        exposition.parse(text, UID)
    return time.process_time() - began


def test_no_response_blocks_the_event_loop(capsys: pytest.CaptureFixture[str]) -> None:
    corpus = {name: _fitting(body) for name, body in BODIES.items()}
    corpus |= {f"{name}, as lines": each.replace(b" ", b"\n") for name, each in corpus.items()}
    corpus |= {f"{name}, whole": OK + IDENTITY + body for name, body in BODIES.items()}
    seconds = {
        name: fastest(
            partial(_cpu_seconds, each[: MOST + 1]),
            limit=LIMIT_SECONDS,
        )
        for name, each in corpus.items()
    }
    worst = max(seconds, key=lambda name: seconds[name])
    with capsys.disabled():
        print(f"\nworst of {len(corpus)} responses: {1000 * seconds[worst]:.1f} ms ({worst})")
    assert seconds[worst] < LIMIT_SECONDS


@pytest.mark.parametrize("name", BODIES)
def test_a_hostile_text_hides_no_other_value(name: str) -> None:
    text = http.body(_fitting(BODIES[name]))
    assert text is not None
    series = exposition.parse(text, UID)
    assert series is None or series["finetune_global_step", ""] == 7


NUMBERS = {
    "not a number": b"NaN",
    "infinite": b"+Inf",
    "negative infinite": b"-Inf",
    "negative": b"-1",
    "just too large": b"9007199254740994",
    "huge": b"1e300",
    "infinite exponent": b"1e999",
    "exponent of five digits": b"1e99999",
    "4,000 digits": b"9" * 1000 + b"",
    "hexadecimal": b"0x10",
    "underscore": b"1_000",
    "Arabic digits": "٣".encode(),
    "full-width digits": "１２".encode(),
    "superscript": "²".encode(),
    "with a timestamp": b"7 1700000000",
    "with an exemplar": b'7 # {trace="x"} 1',
    "no digits": b"e5",
    "empty": b"",
}


@pytest.mark.finding(14, "numbers and labels of pods stop the reconciles of a job")
@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
def test_a_number_out_of_bounds_is_no_value(number: bytes) -> None:
    series = exposition.parse(IDENTITY + b"finetune_max_steps " + number + b"\n" + STEP, UID)
    assert series == {("finetune_pod_info", UID): 1.0, ("finetune_global_step", ""): 7.0}


@pytest.mark.finding(14, "numbers and labels of pods stop the reconciles of a job")
def test_a_number_of_4000_digits_is_no_value() -> None:
    assert exposition.parse(IDENTITY + b"finetune_max_steps " + b"9" * 4000 + b"\n", UID) is None


FOREIGN = {
    "no uid": STEP,
    "another uid": b'finetune_pod_info{uid="uid-2"} 1\n' + STEP,
    "two uids": IDENTITY + b'finetune_pod_info{uid="uid-2"} 1\n' + STEP,
    "uid without a label": b"finetune_pod_info 1\n" + STEP,
    "uid in another label": b'finetune_pod_info{pod="uid-1"} 1\n' + STEP,
    "uid among labels": b'finetune_pod_info{uid="uid-1",a="b"} 1\n' + STEP,
    "uid in a comment": b'# finetune_pod_info{uid="uid-1"} 1\n' + STEP,
    "truncated": IDENTITY + b"finetune_global_step 7",
    "a line of more than 1 KiB": IDENTITY + b"#" * 1100 + b"\n" + STEP,
    "empty": b"",
}


@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
def test_a_text_that_does_not_name_the_pod_is_discarded(text: bytes) -> None:
    assert exposition.parse(text, UID) is None


LABELS = [b'{uid="x"}', b'{outcome="Verified"}', b'{a="b"}', b"{}", b'{uid="' + b"x" * 100 + b'"}']


@pytest.mark.finding(14, "numbers and labels of pods stop the reconciles of a job")
@pytest.mark.parametrize("label", LABELS)
def test_a_series_with_a_wrong_label_is_not_the_series_without(label: bytes) -> None:
    series = exposition.parse(IDENTITY + b"finetune_global_step" + label + b" 7\n", UID)
    assert series is not None
    assert ("finetune_global_step", "") not in series


OUTCOMES = {
    "unknown": b'finetune_verify_outcome{outcome="Hacked"} 1\n',
    "two": b'finetune_verify_outcome{outcome="Verified"} 1\n'
    b'finetune_verify_outcome{outcome="Skipped"} 1\n',
    "another value": b'finetune_verify_outcome{outcome="Verified"} 2\n',
    "without a label": b"finetune_verify_outcome 1\n",
}


@pytest.mark.finding(14, "a foreign pod's outcome becomes status.verification")
@pytest.mark.parametrize("text", OUTCOMES.values(), ids=OUTCOMES)
def test_a_wrong_outcome_is_no_verification(text: bytes) -> None:
    series = exposition.parse(IDENTITY + text, UID)
    assert series is not None
    assert verifier_metrics.verification(series, pod="p", build="b") is None


RESPONSES = {
    "redirect": b"HTTP/1.0 302 Found\r\nLocation: http://127.0.0.1:1/admin\r\n\r\n" + IDENTITY,
    "gzip": GZIP + gzip.compress(IDENTITY),
    "deflate": b"HTTP/1.0 200 OK\r\nconTENT-encoding :deflate\r\n\r\n" + IDENTITY,
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n#\r\n0\r\n\r\n",
    "error": b"HTTP/1.0 500 Error\r\n\r\n" + IDENTITY,
    "interim": b"HTTP/1.1 100 Continue\r\n\r\n" + OK + IDENTITY,
    "status of digits": b"HTTP/1.0 2000\r\n\r\n" + IDENTITY,
    "another protocol": b"SSH-2.0-OpenSSH\r\n\r\n" + IDENTITY,
    "no header": IDENTITY,
    "long header": b"HTTP/1.0 200 OK\r\nX: " + b"a" * 9000 + b"\r\n\r\n" + IDENTITY,
    "large": OK + IDENTITY + b"#\n" * 33_000,
    "empty": b"",
}


@pytest.mark.finding(10, "the operator follows a redirect of a pod")
@pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)
def test_a_response_that_is_not_plain_has_no_body(response: bytes) -> None:
    assert http.body(response) is None


# A pod that answers over a connection.


async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def drip(writer: asyncio.StreamWriter) -> None:
    while True:
        await send(writer, b"#")
        await asyncio.sleep(0.001)


async def flood(writer: asyncio.StreamWriter) -> None:
    while True:
        await send(writer, b"finetune_global_step 1\n" * 1000)


async def silence(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


def answer(data: bytes) -> Handler:
    async def handle(writer: asyncio.StreamWriter) -> None:
        await send(writer, data)

    return handle


CONNECTIONS: dict[str, Handler] = {
    "honest": answer(OK + IDENTITY + STEP),
    "slow drip": drip,
    "endless": flood,
    "silent": silence,
    "closes at once": answer(b""),
    "gzip bomb": answer(GZIP + BODIES["gzip bomb"]),
    "a million headers": answer(b"HTTP/1.0 200 OK\r\n" + b"a:b\r\n" * MIB),
    "interim responses": answer(b"HTTP/1.1 100 Continue\r\n\r\n" * 40_000),
    "one-byte chunks": answer(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\n#\r\n" * 300_000
    ),
    "redirect": answer(RESPONSES["redirect"]),
}


@asynccontextmanager
async def pod(handle: Handler) -> AsyncIterator[int]:
    """Serve a hostile pod in this event loop; yield its port."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await handle(writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize("name", CONNECTIONS)
async def test_a_hostile_connection_ends_within_the_limits(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An honest pod may need the whole time on a busy machine.
    monkeypatch.setattr(http, "TIMEOUT_SECONDS", 60.0 if name == "honest" else 0.5)
    async with pod(CONNECTIONS[name]) as port:
        began = _own_seconds()
        body = await http.get("127.0.0.1", port)
        assert _own_seconds() - began < 5
    assert body == (IDENTITY + STEP if name == "honest" else None)


async def test_an_unreachable_pod_has_no_metrics() -> None:
    async with pod(silence) as port:
        pass
    assert await http.get("127.0.0.1", port) is None


async def test_slow_pods_of_a_tenant_delay_no_pod_of_another(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # An honest pod may need the whole time on a busy machine, and the silent ones take it.
    monkeypatch.setattr(http, "TIMEOUT_SECONDS", 60.0)
    changed: asyncio.Queue[Key] = asyncio.Queue()
    scrapes = Scraper(WorkQueue[Any]("scrapes", namespace_limit=scraper.NAMESPACE_WORKERS))
    running = asyncio.create_task(
        scrapes.run(changed=lambda key, *, urgent: changed.put_nowait(key))
    )
    async with pod(silence) as silent, pod(CONNECTIONS["honest"]) as honest:
        for number in range(200):
            each = Target(
                kind="progress", pod="p", uid=UID, build="", address="127.0.0.1", port=silent
            )
            scrapes.latest(("evil", str(number)), [each])
        await asyncio.sleep(0.1)
        began = _own_seconds()
        own = Target(kind="progress", pod="p", uid=UID, build="", address="127.0.0.1", port=honest)
        scrapes.latest(("good", "demo"), [own])
        assert await asyncio.wait_for(changed.get(), 60) == ("good", "demo")
        seconds = _own_seconds() - began
        with capsys.disabled():
            print(f"\nthe pod of another namespace was scraped after {1000 * seconds:.0f} ms")
        assert seconds < 1
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


# Which pods are read, and which values reach the status.

LABELED = dict.fromkeys(("finetune.dev/job",), "demo")


@pytest.mark.parametrize(
    "references",
    [
        [],
        [{"kind": "Job", "name": "demo-train", "uid": "another", "controller": True}],
        [{"kind": "Job", "name": "demo-train", "uid": "run"}],
        [{"kind": "FineTuneJob", "name": "demo", "uid": "uid-of-demo", "controller": True}],
        [{"kind": "ReplicaSet", "name": "demo-b1-5f6", "uid": "rs", "controller": True}],
    ],
    ids=["none", "another Job", "not the controller", "the FineTuneJob", "no Deployment"],
)
def test_a_foreign_pod_with_the_labels_of_a_job_is_not_scraped(references: list[Any]) -> None:
    run = child("Job", "demo-train")
    run["metadata"]["uid"] = "run"
    run["metadata"]["labels"]["finetune.dev/stage"] = "train"
    foreign = child("Pod", "p", status={"phase": "Running", "podIP": "169.254.169.254"})
    foreign["metadata"] |= {"uid": "p", "ownerReferences": references}
    foreign["metadata"]["labels"] |= {
        "finetune.dev/stage": "train",
        "finetune.dev/build": "b1",
        "pod-template-hash": "5f6",
    }
    foreign["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    assert targets(Snapshot(settings=CONFIG, job=job(), jobs=(run,), pods=(foreign,))) == ()


@pytest.mark.finding(14, "numbers and labels of pods stop the reconciles of a job")
@pytest.mark.parametrize("value", ["abc", "-1", "", "٣x", "9" * 63, "1e9"])
def test_a_label_of_a_foreign_pod_stops_nothing(value: str) -> None:
    cluster = Cluster()
    controllers.run(cluster, "prepare")
    cluster.settle()
    controllers.sync(cluster)
    foreign = child("Pod", "foreign", owner=None, status={"phase": "Running"})
    foreign["metadata"] |= {"uid": "f", "creationTimestamp": "2026-01-01T00:00:00Z"}
    foreign["metadata"]["labels"] |= {
        "finetune.dev/stage": "train",
        "finetune.dev/revision": value,
        "finetune.dev/build": value,
        "finetune.dev/attempt": value,
    }
    snapshot = cluster.observe()
    index(Snapshot(settings=CONFIG, job=snapshot.job, pods=(foreign,)))
    with_it = Snapshot(**{**vars(snapshot), "pods": (*snapshot.pods, foreign)})
    assert (
        cluster.plan_of(with_it).status["training"] == cluster.plan_of(snapshot).status["training"]
    )


@pytest.mark.finding(14, "numbers and labels of pods stop the reconciles of a job")
@pytest.mark.parametrize(
    "text",
    [
        '{"globalStep": %s}' % ("9" * 3000),
        '{"globalStep": 9007199254740994}',
        '{"gpuSeconds": 1e999}',
        '{"loss": NaN}',
        '{"message": "\\ud800"}',
        '{"artifacts": ' + "[" * 1900 + "]" * 1900 + "}",
        '{"message": "%s"}' % ("x" * 5000),
    ],
    ids=lambda text: text[:40],
)
def test_a_hostile_termination_message_is_no_result(text: str) -> None:
    required = '{"stage": "train", "outcome": "completed", "reason": "Completed", '
    assert Result.from_message(required + text.removeprefix("{")) is None


@pytest.mark.finding(14, "numbers and labels of pods stop the reconciles of a job")
@pytest.mark.parametrize(
    ("stage", "artifacts"),
    [
        ("train", '{"rows": 1e300}'),
        ("prepare", '{"rows": 1e300}'),
        ("prepare", '{"rows": "%s"}' % ("9" * 30)),
        ("train", '{"evaluation": {"rows": %s}}' % ("9" * 1000)),
    ],
    ids=lambda text: text[:40],
)
def test_a_hostile_number_is_no_artifact(stage: str, artifacts: str) -> None:
    result = Result.from_message(
        f'{{"stage": "{stage}", "outcome": "completed", "reason": "Completed", '
        f'"artifacts": {artifacts}}}'
    )
    found = None if result is None else result.artifacts
    assert found is None or found.model_dump(exclude_none=True) == {}


@pytest.mark.finding(14, "numbers and labels of pods stop the reconciles of a job")
def test_the_largest_values_fit_into_the_status() -> None:
    cluster = Cluster()
    controllers.run(cluster, "prepare")
    cluster.settle()
    controllers.sync(cluster)
    controllers.start(cluster, controllers.pod_of_stage(cluster, "train"))
    large = exposition.MAX_NUMBER
    cluster.progress = PodProgress(
        pod="",
        ratio=large,
        global_step=int(large),
        max_steps=1,
        loss=large,
        eval_loss=large,
        tokens_per_second=large,
        eta_seconds=large,
        last_checkpoint_step=int(large),
        gpu_seconds=large,
    )
    cluster.settle()
    training = cluster.status["training"]
    assert training["globalStep"] == large
    assert training["progressPercent"] == 100
    assert training.get("gpuSeconds", 0) == 0
    assert len(json.dumps(training)) < 1000
    assert all(math.isfinite(float(training[each])) for each in ("loss", "evalLoss"))
