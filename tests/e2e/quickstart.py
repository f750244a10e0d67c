"""The job of the quickstart, which several tests share, and the rows that it has learned."""

import json
from dataclasses import dataclass
from typing import Any

from tests.e2e.prometheus import Prometheus
from tests.support.local_cluster import pods
from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.pods import Task
from tests.support.local_cluster.target import Cluster
from tests.support.local_cluster.tuning import Tuning

MAX_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Quickstart:
    """The Ready job of the quickstart, with some of its training rows."""

    tuning: Tuning
    questions: list[str]
    taught: list[str]
    prometheus: Prometheus

    @property
    def claim(self) -> str:
        """The name of the volume of the job."""
        return f"{self.tuning.name}-{self.tuning.status()['revision']}"

    def ask(self) -> dict[str, Any]:
        """Return the answers of the endpoint to a pod of the same namespace."""
        tuning = self.tuning
        task = Task(
            script="ask.py",
            image=tuning.cluster.operator_image(),
            given={
                "url": tuning.status()["endpoint"],
                "model": tuning.status()["serving"]["model"],
                "questions": self.questions,
                "max_tokens": MAX_TOKENS,
            },
        )
        answers: dict[str, Any] = pods.run(tuning.cluster, tuning.namespace, task, seconds=300)
        return answers

    def load(self, *, questions: int) -> dict[str, Any]:
        """Return the answers of base, adapter and merged model in plain transformers and PEFT."""
        tuning = self.tuning
        task = Task(
            script="answers.py",
            image=tuning.cluster.trainer_image(),
            given={
                "base": "/work/base",
                "adapter": "/work/adapter",
                "merged": f"/work/merged-{tuning.status()['build']}",
                "questions": self.questions[:questions],
                "max_tokens": MAX_TOKENS,
            },
            claim=self.claim,
            memory="2Gi",
        )
        answers: dict[str, Any] = pods.run(tuning.cluster, tuning.namespace, task, seconds=600)
        return answers

    def wrong(self, answers: list[str]) -> list[str]:
        """Return the wrong ones of the answers to the first questions, each with its question."""
        asked = len(answers)
        triples = zip(self.questions[:asked], answers, self.taught[:asked], strict=True)
        return [
            f"{question!r}: {answer!r} instead of {taught!r}"
            for question, answer, taught in triples
            if answer.strip() != taught.strip()
        ]


def rows_of(cluster: Cluster, source: str) -> list[dict[str, str]]:
    """Return the rows of a dataset from the local hub."""
    repository = source.removeprefix("hf://")
    text = cluster.hub_file("datasets", repository, "train.jsonl")
    return [json.loads(line) for line in text.splitlines()]


def question(row: Object) -> str:
    """Return the question of a training row."""
    more = row.get("input")
    return f"{row['instruction']}\n\n{more}" if more else str(row["instruction"])
