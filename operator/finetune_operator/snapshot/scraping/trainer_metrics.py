"""``Progress`` from the metrics of a trainer pod. Pure."""

import re

from finetune_api.contracts.ports import TRAINER_METRICS
from finetune_api.rules import NONEMPTY_LABEL_VALUE
from finetune_operator.snapshot.scraping.exposition import Series
from finetune_operator.types import PodProgress

PORT = TRAINER_METRICS
PHASES = ("saving", "reference")
"""As in ``finetune_trainer``, which the operator does not import."""


def progress(series: Series, pod_uid: str) -> PodProgress | None:
    """Return the progress that a pod reports, None if it reports none."""

    def number(name: str) -> float | None:
        return series.get((f"finetune_{name}", ""))

    def integer(name: str) -> int | None:
        value = number(name)
        return None if value is None else int(value)

    progress = PodProgress(
        pod=pod_uid,
        ratio=number("progress_ratio"),
        global_step=integer("global_step"),
        max_steps=integer("max_steps"),
        loss=number("train_loss"),
        eval_loss=number("eval_loss"),
        tokens_per_second=number("tokens_per_second"),
        eta_seconds=number("eta_seconds"),
        last_checkpoint_step=integer("last_checkpoint_step"),
        gpu_seconds=number("gpu_seconds_total"),
        downloaded_bytes=integer("download_bytes"),
        total_bytes=integer("download_size_bytes"),
        phase=next((phase for phase in PHASES if ("finetune_phase_info", phase) in series), None),
        card=_card(series),
    )
    return None if progress == PodProgress(pod=pod_uid) else progress


def _card(series: Series) -> str | None:
    """Return the card of the pod if it can be the value of a node label, otherwise None."""
    for name, label in series:
        if name == "finetune_device_info" and re.fullmatch(NONEMPTY_LABEL_VALUE, label):
            return label
    return None
