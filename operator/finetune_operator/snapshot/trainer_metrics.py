"""Parses the metrics of a trainer pod, in the Prometheus text format, into ``Progress``. Pure.

The address of a deleted pod is assigned to other pods, possibly before its deletion is observed. A
trainer therefore publishes the uid of its pod, and metrics with another uid are discarded. Metrics
without a uid are accepted: a revision keeps its image, which may predate the uid.
"""

import math
import re

from prometheus_client.parser import text_string_to_metric_families

from finetune_api.contracts.ports import TRAINER_METRICS
from finetune_api.rules import NONEMPTY_LABEL_VALUE
from finetune_operator.types import Progress

PORT = TRAINER_METRICS
_IDENTITY = "finetune_pod_info"
_PHASE = "finetune_phase_info"
_DEVICE = "finetune_device_info"

_FLOATS = {
    "finetune_progress_ratio": "ratio",
    "finetune_train_loss": "loss",
    "finetune_eval_loss": "eval_loss",
    "finetune_tokens_per_second": "tokens_per_second",
    "finetune_eta_seconds": "eta_seconds",
    "finetune_gpu_seconds_total": "gpu_seconds",
}
_INTEGERS = {
    "finetune_global_step": "global_step",
    "finetune_max_steps": "max_steps",
    "finetune_last_checkpoint_step": "last_checkpoint_step",
    "finetune_download_bytes": "downloaded_bytes",
    "finetune_download_size_bytes": "total_bytes",
}


def parse(text: str, pod_uid: str) -> Progress | None:
    """Return the progress of the pod with this uid; values that are not finite are left out.

    Return None if the metrics belong to another pod, contain no progress or cannot be parsed.
    """
    floats: dict[str, float] = {}
    integers: dict[str, int] = {}
    phase: str | None = None
    card = None
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == _IDENTITY and sample.labels.get("uid") != pod_uid:
                    return None
                if sample.name == _DEVICE:
                    card = _label_value(sample.labels.get("card", ""))
                if not math.isfinite(sample.value):
                    continue
                if sample.name == _PHASE:
                    phase = sample.labels.get("phase")
                elif sample.name in _FLOATS:
                    floats[_FLOATS[sample.name]] = sample.value
                elif sample.name in _INTEGERS:
                    integers[_INTEGERS[sample.name]] = int(sample.value)
    except ValueError:
        return None
    if not floats and not integers:
        return None
    return Progress(
        ratio=floats.get("ratio"),
        global_step=integers.get("global_step"),
        max_steps=integers.get("max_steps"),
        loss=floats.get("loss"),
        eval_loss=floats.get("eval_loss"),
        tokens_per_second=floats.get("tokens_per_second"),
        eta_seconds=floats.get("eta_seconds"),
        last_checkpoint_step=integers.get("last_checkpoint_step"),
        gpu_seconds=floats.get("gpu_seconds"),
        downloaded_bytes=integers.get("downloaded_bytes"),
        total_bytes=integers.get("total_bytes"),
        phase=phase,
        card=card,
    )


def _label_value(text: str) -> str | None:
    """Return a text if it can be the value of a node label, otherwise None."""
    return text if re.fullmatch(NONEMPTY_LABEL_VALUE, text) else None
