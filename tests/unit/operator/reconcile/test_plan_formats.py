"""The formats of datasets: recorded once, and equal to ``auto`` if auto detects them."""

from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster

SOURCE = {"source": "hf://acme/rows"}


def record(requested: str, detected: str | None, dataset: str = "dataset") -> dict[str, str]:
    used = requested if requested != "auto" else str(detected)
    found = {"dataset": dataset, "format": used, "requested": requested}
    return {**found, "detected": detected} if detected else found


def prepared(spec: dict[str, Any], *records: dict[str, str]) -> Cluster:
    cluster = Cluster()
    cluster.edit(**spec)
    text = controllers.message("prepare", artifacts={"formats": list(records)})
    controllers.run(cluster, "prepare", text=text)
    cluster.settle()
    (revision,) = cluster.status["revisions"]
    assert revision["data"]["formats"] == list(records)
    return cluster


def dataset(format_: str, **fields: Any) -> dict[str, Any]:
    return {"dataset": {**SOURCE, "format": format_, **fields}}


def revision_after(cluster: Cluster, **spec: Any) -> str:
    cluster.edit(**spec)
    return str(cluster.plan().status["revision"])


@pytest.mark.parametrize(
    ("before", "detected", "after", "equal"),
    [
        ("auto", "messages", "messages", True),
        ("messages", "messages", "auto", True),
        ("auto", "messages", "alpaca", False),
        ("messages", "sharegpt", "auto", False),
        ("messages", None, "auto", False),
        ("messages", "sharegpt", "sharegpt", False),
    ],
)
def test_auto_and_the_format_that_it_detects_are_equal(
    before: str, detected: str | None, after: str, equal: bool
) -> None:
    cluster = prepared(dataset(before), record(before, detected))
    at_first = cluster.status["revision"]
    assert (revision_after(cluster, **dataset(after)) == at_first) == equal
    # A value that depends on the format has no effect on the comparison.
    again = dataset(before, split="train")
    assert revision_after(cluster, **again) == at_first


def test_format_of_an_evaluation_dataset_and_backend_are_replaced_together() -> None:
    cluster = Cluster()
    evaluation = {"evaluation": {"dataset": {"source": "hf://acme/test", "format": "auto"}}}
    cluster.edit(**dataset("auto"), **evaluation)
    artifacts = {
        "formats": [
            record("auto", "alpaca"),
            record("auto", "sharegpt", "evaluation.dataset"),
        ],
        "backend": {"name": "trl", "version": "1", "reason": "r", "automatic": "trl"},
    }
    controllers.run(cluster, "prepare", text=controllers.message("prepare", artifacts=artifacts))
    cluster.settle()
    at_first = cluster.status["revision"]
    written = {"evaluation": {"dataset": {"source": "hf://acme/test", "format": "sharegpt"}}}
    backend = {"training": {"advanced": {"backend": "trl"}}}
    assert revision_after(cluster, **dataset("alpaca"), **written, **backend) == at_first
    more = {"training": {"advanced": {"backend": "trl"}, "epochs": 1}}
    assert revision_after(cluster, **dataset("alpaca"), **written, **more) != at_first


def test_omitted_format_equals_the_format_that_is_detected() -> None:
    cluster = prepared({"dataset": {**SOURCE, "format": None}}, record("auto", "messages"))
    at_first = cluster.status["revision"]
    for written in ("messages", "auto"):
        assert revision_after(cluster, **dataset(written)) == at_first
    assert revision_after(cluster, **dataset("alpaca")) != at_first


def test_files_that_were_read_are_in_the_status() -> None:
    cluster = Cluster()
    read = [
        {
            "dataset": "dataset",
            "config": "main",
            "split": "train",
            "fileCount": 12,
            "files": ["main/train-00000-of-00012.parquet"],
        }
    ]
    text = controllers.message("prepare", artifacts={"sources": read, "rows": 3})
    controllers.run(cluster, "prepare", text=text)
    cluster.settle()
    (revision,) = cluster.status["revisions"]
    assert revision["data"] == {"sources": read, "rows": 3}


@pytest.mark.parametrize("unknown", ["messages", [{"dataset": "dataset"}], [record("csv", "csv")]])
def test_formats_of_an_unknown_form_are_ignored(unknown: Any) -> None:
    cluster = Cluster()
    text = controllers.message("prepare", artifacts={"formats": unknown, "rows": 3})
    controllers.run(cluster, "prepare", text=text)
    cluster.settle()
    (revision,) = cluster.status["revisions"]
    assert revision["data"] == {"rows": 3}


def test_format_of_one_of_several_datasets_is_replaced() -> None:
    def rows(first: str, second: str) -> dict[str, Any]:
        entries = (("a", first), ("b", second))
        return {"datasets": [{"name": name, **SOURCE, "format": form} for name, form in entries]}

    records = (record("auto", "alpaca", "datasets[a]"), record("auto", "sharegpt", "datasets[b]"))
    cluster = prepared({"dataset": None, **rows("auto", "auto")}, *records)
    at_first = cluster.status["revision"]
    assert revision_after(cluster, **rows("alpaca", "auto")) == at_first
    assert revision_after(cluster, **rows("alpaca", "sharegpt")) == at_first
    assert revision_after(cluster, **rows("sharegpt", "sharegpt")) != at_first
