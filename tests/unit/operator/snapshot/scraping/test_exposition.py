"""Parsing of the Prometheus text format."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from finetune_operator.snapshot.scraping.exposition import MAX_NUMBER, parse

IDENTITY = b'finetune_pod_info{uid="uid-1"} 1.0\n'


@given(value=st.floats(0, MAX_NUMBER))
def test_every_number_that_a_trainer_can_write_is_read(value: float) -> None:
    registry = CollectorRegistry()
    Gauge("finetune_train_loss", "x", registry=registry).set(value)
    series = parse(IDENTITY + generate_latest(registry), "uid-1")
    assert series is not None
    assert series["finetune_train_loss", ""] == value


@pytest.mark.parametrize("place", ["before", "after"])
def test_metrics_of_another_pod_are_discarded(place: str) -> None:
    metric = b"finetune_global_step 3\n"
    text = IDENTITY + metric if place == "before" else metric + IDENTITY
    assert parse(text, "uid-1") == {
        ("finetune_global_step", ""): 3,
        ("finetune_pod_info", "uid-1"): 1,
    }
    assert parse(text, "uid-2") is None
    assert parse(metric, "uid-1") is None


@given(st.binary())
def test_any_text_has_only_series_within_the_bounds(text: bytes) -> None:
    series = parse(IDENTITY + text + b"\n", "uid-1")
    assert series is None or all(
        name.startswith("finetune_") and math.isfinite(value) and 0 <= value <= MAX_NUMBER
        for (name, _), value in series.items()
    )
