"""``Progress`` from the metrics of a trainer pod."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from finetune_operator.snapshot.scraping.exposition import parse
from finetune_operator.snapshot.scraping.trainer_metrics import progress
from finetune_operator.types import PodProgress

UID = "uid-1"
IDENTITY = b'finetune_pod_info{uid="uid-1"} 1.0\n'


def parsed(text: bytes) -> PodProgress | None:
    series = parse(IDENTITY + text, UID)
    assert series is not None
    return progress(series, UID)


def test_all_metrics_of_the_trainer_are_parsed() -> None:
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
        "finetune_download_size_bytes": 16 << 40,
    }
    for name, value in values.items():
        Gauge(name, "x", registry=registry).set(value)
    Gauge("finetune_stage_info", "x", ["stage"], registry=registry).labels("train").set(1)
    Gauge("finetune_pod_info", "x", ["uid"], registry=registry).labels(UID).set(1)
    Gauge("finetune_phase_info", "x", ["phase"], registry=registry).labels("reference").set(1)
    Gauge("finetune_device_info", "x", ["card"], registry=registry).labels("NVIDIA-L4").set(1)
    Counter("finetune_gpu_seconds", "x", registry=registry).inc(75.5)
    series = parse(generate_latest(registry), UID)
    assert series is not None
    assert progress(series, UID) == PodProgress(
        pod=UID,
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
        total_bytes=16 << 40,
        phase="reference",
        card="NVIDIA-L4",
    )


@pytest.mark.parametrize("card", ["", "NVIDIA L4", "a" * 64, "-a"])
def test_a_card_that_no_node_label_can_have_is_discarded(card: str) -> None:
    text = f'finetune_device_info{{card="{card}"}} 1.0\nfinetune_global_step 3\n'
    assert parsed(text.encode()) == PodProgress(pod=UID, global_step=3)


def test_a_missing_metric_is_none_and_not_zero() -> None:
    assert parsed(b"finetune_progress_ratio 0.0\n") == PodProgress(pod=UID, ratio=0.0)


@pytest.mark.parametrize("text", [b"", b"python_info 1\n", b"finetune_unknown 1\n"])
def test_metrics_without_progress_have_none(text: bytes) -> None:
    assert parsed(text) is None
