"""docs/reference/labels.md lists the names, labels and ports that the manifests use."""

import re
from pathlib import Path

from finetune_api.contracts import ports
from finetune_operator import health
from finetune_operator.manifests import vllm
from finetune_operator.metrics_server import server
from finetune_operator.objects import naming

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "labels.md").read_text(encoding="utf-8")
JOB = {"metadata": {"name": "<name>", "namespace": "team", "uid": "uid-1"}}


def first_column(chapter: str) -> set[str]:
    """Return the code in the first cells of a chapter's table."""
    text = PAGE.split(f"\n## {chapter}\n")[1].split("\n## ")[0]
    return {word for cell in re.findall(r"^\| (`.+?) \|", text, re.M) for word in code(cell)}


def code(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_the_page_lists_every_label() -> None:
    own = {"revision": "1", "build": "2", "stage": "train", "attempt": 3}
    labels = naming.labels(JOB, component="train", **own)  # type: ignore[arg-type]
    others = {naming.JOB_UID, naming.REUSE, naming.QUEUE, naming.QUEUE_PRIORITY}
    assert first_column("Labels") == labels.keys() | others


def test_the_page_has_the_names_of_objects() -> None:
    names = {
        naming.revision_name("<name>", "<revision>"),
        naming.job_name("<name>", "<revision>", "<stage>", "<attempt>"),  # type: ignore[arg-type]
        naming.deployment_name("<name>", "<build>"),
        naming.service_name("<name>"),
    }
    text = PAGE.split("\n## Objects of a job\n")[1].split("\n## ")[0]
    assert names <= set(code(text))


def test_the_page_has_the_ports() -> None:
    text = PAGE.split("\n## Ports\n")[1].split("\n## ")[0]
    listed = {int(port) for port in re.findall(r"^\| (\d+) \|", text, re.M)}
    assert listed == {
        vllm.PORT,
        server.PORT,
        health.PORT,
        ports.TRAINER_METRICS,
        ports.VERIFIER_METRICS,
    }
