"""Requests to the names of a shared endpoint: which question, and who asks it how often."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.e2e.shared import REQUEST, SECONDS, Shared
from tests.support.local_cluster import pods
from tests.support.local_cluster.pods import Task

LIMIT_SECONDS = 60.0
QUESTIONS = (
    "What is nginx?",
    "List the Debian packages that you know.",
    "What is the Debian package tmux?",
    "Why should I install vim?",
    "Describe a web server.",
    "How do I compress a file?",
)
"""The one is asked to which most names give answers of their own: only these show a mix-up."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One request. ``text``: None after an error. Times are those of the system clock."""

    name: str
    start: float
    end: float
    text: str | None
    error: str


@dataclass(frozen=True, kw_only=True)
class Asking:
    """The same request to any name of the endpoint."""

    shared: Shared
    request: Mapping[str, Any]

    def texts(self, *names: str) -> list[str]:
        """Ask each name once; return the answers. Raise RuntimeError after an error."""
        answers = self.shared.ask(next(iter(self.shared.jobs)), *names, request=self.request)
        if any(status != 200 for status, _ in answers):
            raise RuntimeError(f"a name does not answer: {answers}")
        return [text for _, text in answers]

    @contextmanager
    def during(self, names: Sequence[str], **given: Any) -> Iterator[Callable[[], list[Answer]]]:
        """Ask the names in the block. The yielded function ends that, and returns the answers.

        ``given``: seconds, callers and period of ``scripts/ask_names.py``.
        """
        cluster, namespace = self.shared.cluster, self.shared.namespace
        given = {"seconds": None, **given, "names": names, "limit": LIMIT_SECONDS}
        given |= {"body": self.request, "url": self.shared.endpoint()["status"]["endpoint"]}
        image = cluster.operator_image()
        task = Task(script="ask_names.py", image=image, given=given, ready="/tmp/answered")
        with pods.started(cluster, namespace, task) as pod:
            pods.wait_until_ready(cluster, namespace, pod)

            def end() -> list[Answer]:
                if given["seconds"] is None:
                    cluster.kubectl.execute(pod, namespace, ["touch", "/tmp/stop"])
                result = pods.result(cluster, namespace, pod, seconds=SECONDS)
                return [
                    Answer(
                        name=name,
                        start=start,
                        end=ended,
                        text=None if text is None else result["texts"][text],
                        error=error,
                    )
                    for name, start, ended, text, error in result["answers"]
                ]

            yield end


def choose(shared: Shared, names: Sequence[str]) -> Asking:
    """Return the request whose answers tell most names apart."""
    requests = [
        {**REQUEST, "messages": [{"role": "user", "content": question}]} for question in QUESTIONS
    ]
    return max(
        (Asking(shared=shared, request=request) for request in requests),
        key=lambda asking: len(set(asking.texts(*names))),
    )
