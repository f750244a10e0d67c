"""``python bench shared``: eight jobs on one shared endpoint of the local cluster, and its swaps.

1.  The jobs train, and their adapters are published to the endpoint and proved.
2.  As many callers as vLLM has sequences ask all names: the capacity.
3.  Under half of this capacity, one job is edited twenty times. The first edit trains a second
    revision. Each further one returns to the revision before, which is not trained again. Every
    answer is compared with those of both revisions, and of the other names.
4.  vLLM is killed while all names are asked.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.e2e.shared import REQUEST, SECONDS, SHARED, Shared, sharing
from tests.support.local_cluster import gpus, recorder
from tests.support.local_cluster.recorder import WATCHED
from tests.support.local_cluster.target import Cluster, local_kubectl, namespaces
from tests.support.local_cluster.tuning import JOB, STAGE, Tuning, condition, label, small

from bench.local_cluster.asking import Answer, Asking, choose
from bench.table import table

NAMESPACE = "e2e-bench-shared"
ENDPOINTS = {"FineTuneEndpoint": "/apis/finetune.dev/v1alpha1/finetuneendpoints"}
CALLERS = 8
"""--max-num-seqs of vLLM on the local cluster."""
CAPACITY_SECONDS = 30.0
PAUSE_SECONDS = 5.0
"""Between two swaps, so that requests also meet the revision that has just been swapped in."""
RATES = (1e-3, 2e-3)
"""Learning rates of the two revisions of the edited job. Those of the others are higher, and differ
from each other, so that each adapter gives another answer."""
EVERY_SECONDS = 0.2
"""Between two requests while vLLM restarts."""


@dataclass(frozen=True, kw_only=True)
class Swap:
    """One edit. ``text``: what the name answers then; ``reported``: when the status says so."""

    edited: float
    reported: float
    text: str

    @property
    def seconds(self) -> float:
        """The time from the edit until the status says that the name answers."""
        return self.reported - self.edited


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command. Without other load, it takes about half an hour."""
    command.add_argument("--names", type=int, default=8, help="jobs on the endpoint")
    command.add_argument("--swaps", type=int, default=20, help="edits of one of the jobs")


def measure(options: argparse.Namespace) -> str:
    """Run the benchmark and return its table."""
    print("==> check cluster, images and operator", flush=True)
    client = local_kubectl()
    with recorder.recording(client, WATCHED | ENDPOINTS) as record:
        cluster = Cluster(kubectl=client, record=record)
        cluster.wait_for_operator()
        cluster.require_free_gpu()
        specs = {
            f"model-{number}": small(
                dataset={"maxSamples": 8 + number},
                training={"seed": number, "learningRate": RATES[0] * (1 + number) / 2},
                serving=SHARED,
            )
            for number in range(1, options.names + 1)
        }
        print(f"==> train {options.names} jobs", flush=True)
        with (
            namespaces(cluster, NAMESPACE),
            gpus.advertised(cluster, options.names + 1),
            sharing(cluster, NAMESPACE, specs) as shared,
        ):
            figures = []
            for figure in _figures(shared, options.swaps):
                print(f"    {': '.join(figure)}", flush=True)
                figures.append(figure)
            return table(("figure", "value"), figures)


def _figures(shared: Shared, swaps: int) -> Iterator[tuple[str, str]]:
    names = list(shared.jobs)
    asking = choose(shared, names)
    own = dict(zip(names, asking.texts(*names), strict=True))
    pod = shared.pod()["metadata"]["uid"]
    yield "names that answer in one pod", str(len(own))
    arrivals = [_arrival(job) for job in shared.jobs.values()]
    yield "from the published adapter to the answering name, while others train", _span(arrivals)

    print("==> measure the capacity", flush=True)
    with asking.during(names, callers=CALLERS, seconds=CAPACITY_SECONDS) as end:
        capacity = end()
    _require_answers(capacity, {name: {text} for name, text in own.items()})
    rate = len(capacity) / (max(a.end for a in capacity) - min(a.start for a in capacity))
    yield f"capacity, {CALLERS} callers, answers of {REQUEST['max_tokens']} tokens", _rate(rate)

    edited, *others = names
    # Every second request is one to the edited job.
    turns = [name for other in others for name in (edited, other)]
    with asking.during(turns, period=2 / rate) as end:
        done = list(_swaps(asking, edited, own[edited], swaps))
        answers = end()
    expected = {name: {text} for name, text in own.items()}
    expected[edited] = {swap.text for swap in done} | {own[edited]}
    distinct = len({text for texts in expected.values() for text in texts})
    yield "different answers of all names and revisions", f"{distinct} of {len(names) + 1}"
    again = [swap.seconds for swap in done[1:]]
    yield "swaps under half of the capacity", f"{len(done)}: 1 trained, {len(again)} not"
    yield "from the edit to the answering name, with training", f"{done[0].seconds:.0f} s"
    if again:
        yield "from the edit to the answering name, without training", _span(again)
    yield from _judged(answers, expected, edited, done)

    print("==> kill vLLM", flush=True)
    expected = {name: {text} for name, text in zip(names, asking.texts(*names), strict=True)}
    with asking.during(names, period=EVERY_SECONDS) as end:
        killed = time.time()
        shared.kill_vllm()
        for job in shared.jobs.values():
            job.wait_until("Ready", reason="Serving", seconds=SECONDS)
        time.sleep(PAUSE_SECONDS)
        answers = end()
    returned = [_return(answers, name, killed) - killed for name in names]
    yield "from the kill of vLLM to the first name that answers", f"{min(returned):.0f} s"
    yield f"from the kill of vLLM until all {len(names)} names answer", f"{max(returned):.0f} s"
    yield "answers of other weights meanwhile", str(len(_foreign(answers, expected)))
    yield "the pod is still the same", "yes" if shared.pod()["metadata"]["uid"] == pod else "NO"


def _judged(
    answers: Sequence[Answer],
    expected: Mapping[str, set[str]],
    edited: str,
    done: Sequence[Swap],
) -> Iterator[tuple[str, str]]:
    failed = [answer for answer in answers if answer.text is None]
    for answer in failed[:10]:
        print(f"    {answer.name} failed: {answer.error}", flush=True)
    foreign = _foreign(answers, expected)
    for answer in foreign[:10]:
        print(f"    {answer.name} answered {answer.text!r}", flush=True)
    spans = zip(done, [swap.edited for swap in done[1:]] + [float("inf")], strict=True)
    stale = [
        answer
        for swap, until in spans
        for answer in answers
        if answer.name == edited and answer.text not in (None, swap.text)
        if swap.reported < answer.start < until
    ]
    duration = max(a.end for a in answers) - min(a.start for a in answers)
    of_edited = sorted((a for a in answers if a.name == edited), key=lambda answer: answer.start)
    texts = [answer.text for answer in of_edited if answer.text is not None]
    changes = sum(before != after for before, after in itertools.pairwise(texts))
    yield "load meanwhile", _rate(len(answers) / duration)
    yield "requests during the swaps", f"{len(answers)}, {len(of_edited)} of them to the edited job"
    yield "failed requests", str(len(failed))
    yield "answers of other weights, or of a mixture", str(len(foreign))
    yield "changes of the edited job's answer, by the start of the requests", str(changes)
    yield "answers of the former revision after the status reported the swap", str(len(stale))


def _swaps(asking: Asking, name: str, text: str, count: int) -> Iterator[Swap]:
    """Edit the job ``count`` times. text: what it answers before."""
    job = asking.shared.jobs[name]
    texts: dict[float, str] = {RATES[0]: text}
    for number in range(1, count + 1):
        rate, before = RATES[number % 2], job.status()["serving"]["revision"]
        edited = time.time()
        job.change(training={"learningRate": rate})
        job.wait(f"swap {number}", partial(_swapped, before=before), seconds=SECONDS)
        reported = time.time()
        if rate not in texts:
            (texts[rate],) = asking.texts(name)
        print(f"    swap {number}: {reported - edited:.1f} s", flush=True)
        yield Swap(edited=edited, reported=reported, text=texts[rate])
        time.sleep(PAUSE_SECONDS)


def _swapped(now: Any, *, before: str) -> bool:
    ready = condition(now, "Ready")
    is_serving = ready is not None and (ready["status"], ready["reason"]) == ("True", "Serving")
    return is_serving and now["serving"].get("revision") not in (None, before)


def _arrival(job: Tuning) -> float:
    """Return the seconds from the end of the publish Job until the endpoint lists the adapter."""
    record = job.cluster.record

    def is_done(item: Any) -> bool:
        ours = label(item, JOB) == job.name and label(item, STAGE) == "publish"
        return ours and bool(item.get("status", {}).get("succeeded"))

    def answers(endpoint: Any) -> bool:
        models = endpoint.get("status", {}).get("models", ())
        return any(model["name"] == job.name and model.get("answers") for model in models)

    published = record.events("Job", job.namespace, is_done)[0].at
    return record.events("FineTuneEndpoint", job.namespace, answers)[0].at - published


def _require_answers(answers: Sequence[Answer], expected: Mapping[str, set[str]]) -> None:
    if foreign := _foreign(answers, expected):
        raise RuntimeError(f"another answer than without load: {foreign[0]}")
    if failed := [answer for answer in answers if answer.text is None]:
        raise RuntimeError(f"a request failed: {failed[0]}")


def _foreign(answers: Sequence[Answer], expected: Mapping[str, set[str]]) -> list[Answer]:
    """Return the answers that no revision of their name gives."""
    return [answer for answer in answers if answer.text not in (None, *expected[answer.name])]


def _return(answers: Sequence[Answer], name: str, killed: float) -> float:
    """Return when a name answered again, after the first error since the kill."""
    own = [answer for answer in answers if answer.name == name and answer.end > killed]
    down = min(answer.start for answer in own if answer.text is None)
    return min(answer.end for answer in own if answer.text is not None and answer.start > down)


def _span(seconds: Sequence[float]) -> str:
    return f"median {statistics.median(seconds):.1f} s, at most {max(seconds):.1f} s"


def _rate(per_second: float) -> str:
    return f"{per_second:.1f} requests per second"
