"""The trainer's metrics, read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from finetune_operator.snapshot.trainer_metrics import parsed
from finetune_operator.types import Progress


def test_what_the_trainer_says_is_read() -> None:
    registry = CollectorRegistry()
    values = {
        "finetune_progress_ratio": 0.5,
        "finetune_global_step": 60,
        "finetune_max_steps": 120,
        "finetune_train_loss": 1.25,
        "finetune_eval_loss": 1.5,
        "finetune_tokens_per_second": 812.5,
        "finetune_eta_seconds": 90,
        "finetune_last_checkpoint_step": 50,
        "finetune_download_bytes": 3 << 30,
        "finetune_download_size_bytes": 16 << 30,
    }
    for name, value in values.items():
        Gauge(name, "x", registry=registry).set(value)
    Gauge("finetune_stage_info", "x", ["stage"], registry=registry).labels("train").set(1)
    Gauge("finetune_pod_info", "x", ["uid"], registry=registry).labels("uid-1").set(1)
    Counter("finetune_gpu_seconds", "x", registry=registry).inc(75.5)
    assert parsed(generate_latest(registry).decode(), "uid-1") == Progress(
        ratio=0.5,
        global_step=60,
        max_steps=120,
        loss=1.25,
        eval_loss=1.5,
        tokens_per_second=812.5,
        eta_seconds=90,
        last_checkpoint_step=50,
        gpu_seconds=75.5,
        downloaded_bytes=3 << 30,
        total_bytes=16 << 30,
    )


def test_what_is_absent_is_not_known_rather_than_zero() -> None:
    assert parsed("finetune_progress_ratio 0.0\n", "uid-1") == Progress(ratio=0.0)


@pytest.mark.parametrize("place", ["before", "after"])
def test_the_figures_of_another_pod_are_none(place: str) -> None:
    """Wherever the identity stands in the text; one who says none is believed."""
    figure, identity = "finetune_global_step 3\n", 'finetune_pod_info{uid="uid-1"} 1.0\n'
    text = identity + figure if place == "before" else figure + identity
    assert parsed(text, "uid-1") == parsed(figure, "uid-1") == Progress(global_step=3)
    assert parsed(text, "uid-2") is None


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf"])
def test_what_is_not_finite_is_not_known(value: str) -> None:
    text = f"finetune_train_loss {value}\nfinetune_global_step 3\n"
    assert parsed(text, "uid-1") == Progress(global_step=3)


@pytest.mark.parametrize("text", ["", "<html>not found</html>", "python_info 1\n", "{", "a{b= 1"])
def test_what_says_nothing_of_ours_is_nothing(text: str) -> None:
    assert parsed(text, "uid-1") is None


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    assert parsed(text, "uid-1") is None or "finetune_" in text
