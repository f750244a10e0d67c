"""docs/reference/metrics.md lists every metric of operator and trainer, with type and labels."""

import re
from pathlib import Path

import pytest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics import MetricWrapperBase

from finetune_api.contracts.ports import POD_UID_VARIABLE
from finetune_operator.telemetry import (
    budget_metrics,
    endpoint_metrics,
    gpu_seconds,
    job_metrics,
    metrics,
    usage_metrics,
)
from finetune_trainer.runtime import progress

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"
TRAINER = re.compile(r"^## The trainer\n.*?(?=^## )", re.MULTILINE | re.DOTALL)
TRAINER_ROW = re.compile(r"^\| (`finetune_.+?) \| (\w+) \| ?([\w, ]*?) ?\| .+ \|$", re.MULTILINE)
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| ?([\w, ]*?) ?\| (.+) \|$", re.MULTILINE)


def declared() -> dict[str, tuple[str, str]]:
    """Return type and labels of the operator's metrics, by the name that Prometheus sees."""
    found = [
        (each._name, str(each._type), each._labelnames)
        for module in (metrics, job_metrics)
        for each in vars(module).values()
        if isinstance(each, MetricWrapperBase)
    ]
    found += [
        (each.name, each.type, each._labelnames)
        for collector in (
            job_metrics.JOB_METRICS,
            gpu_seconds.GPU_SECONDS,
            usage_metrics.USAGE_METRICS,
            budget_metrics.BUDGET_METRICS,
            endpoint_metrics.ENDPOINT_METRICS,
        )
        for each in collector.collect()
        if isinstance(each, GaugeMetricFamily | CounterMetricFamily)
    ]
    return {
        name + ("_total" if type_ == "counter" else ""): (type_, ", ".join(labels))
        for name, type_, labels in found
    }


def test_rows_match_the_metrics_of_the_operator() -> None:
    page = TRAINER.sub("", PAGE.read_text())
    rows = {name: (type_, labels) for name, type_, labels, _ in ROW.findall(page)}
    assert rows == declared()


def test_rows_match_the_metrics_of_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(POD_UID_VARIABLE, "uid-1")
    found = TRAINER.search(PAGE.read_text())
    assert found is not None
    trainer = progress.Progress("train")
    trainer.set(**dict.fromkeys(progress.HELP, 0.5))
    trainer.checkpoint_published(1)
    trainer.retried({"killed": 1})
    trainer.enter("saving")
    trainer.runs_on("NVIDIA-A10G")
    served = {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            ", ".join(family.samples[0].labels),
        )
        for family in trainer.collect()
    }
    rows = {
        name: (type_, labels)
        for names, type_, labels in TRAINER_ROW.findall(found[0])
        for name in re.findall(r"`(finetune_\w+)`", names)
    }
    assert rows == served


def test_every_registered_metric_is_declared_in_a_module() -> None:
    served = {family.name for family in metrics.REGISTRY.collect()}
    ours = {name.removesuffix("_total") for name in declared()}
    assert {name for name in served if not name.startswith("process_")} == ours
