"""Formats an estimate as a table, a sentence, facts of a manifest, and fields of status."""

import math
from typing import Any

from finetune_api.durations import estimated
from finetune_trainer.estimate.budget import Estimate
from finetune_trainer.estimate.memory import GIB
from finetune_trainer.estimate.verdict import gib

WIDTH = 46


def table(estimate: Estimate, *, title: str) -> str:
    """Return the estimate as a table of text."""
    card = estimate.card
    where = f"{card.name} ({gib(card.memory)})" if card else "an unknown GPU"
    lines = [f"{title} on {where}", ""]
    lines += [
        f"Training  {estimate.backend}, micro-batch {estimate.micro_batch} × "
        f"{estimate.accumulation} accumulation steps, {estimate.length} tokens per row"
        + ("" if estimate.checkpointing else ", without gradient checkpointing")
    ]
    names = {
        "weights": "base, 4 bits",
        "embeddings": "embeddings, head and norms",
        "adapter": "adapter and its gradients",
        "optimizer": "optimizer state",
        "activations": "activations",
        "masks": "attention masks",
        "loss": "loss, beyond the activations",
        "overhead": "CUDA and fragmentation",
    }
    parts = {label: getattr(estimate.training, name) for name, label in names.items()}
    lines += [_row(label, size) for label, size in parts.items() if size]
    share = f"{estimate.training.total / card.memory:.0%} of the GPU" if card else ""
    lines += [
        _sum(estimate.training.total, share, fits=estimate.training_fits, has_card=card is not None)
    ]
    if estimate.serving is not None:
        serving = estimate.serving
        lines += ["", f"Serving   vLLM, maxModelLen {serving.length} tokens"]
        lines += [
            _row("merged weights, 16 bits", serving.weights),
            _row("KV cache of one request of that length", serving.cache),
            _row("CUDA graphs", serving.graphs),
            _row("CUDA, activations, sampling", serving.working),
        ]
        share = f"of {gib(serving.limit(card))} for vLLM" if card else ""
        lines += [_sum(serving.total, share, fits=estimate.serving_fits, has_card=card is not None)]
    lines += ["", "Other resources", _row("host memory of the train pod", estimate.host)]
    lines += [_row("volume", estimate.volume)]
    if estimate.tokens is not None:
        lines += [f"  {'training tokens':<{WIDTH}}{estimate.tokens:>12,}"]
    if estimate.seconds is not None:
        lines += [f"  {'training time (approximate)':<{WIDTH}}{estimated(estimate.seconds):>12}"]
    return "\n".join(lines)


def facts(estimate: Estimate) -> dict[str, Any]:
    """Return the estimate as facts of the dataset's manifest."""
    return {
        "card": estimate.card.name if estimate.card else None,
        "backend": estimate.backend,
        "microBatch": estimate.micro_batch,
        "gradientCheckpointing": estimate.checkpointing,
        "length": estimate.length,
        "trainingBytes": estimate.training.total,
        "servingBytes": estimate.serving.total if estimate.serving else None,
        "hostBytes": estimate.host,
        "volumeBytes": estimate.volume,
        "tokens": estimate.tokens,
        "seconds": None if estimate.seconds is None else round(estimate.seconds),
    }


def status(facts: dict[str, Any] | None) -> dict[str, Any]:
    """Return ``facts`` under the names of ``status.estimate``; empty if ``facts`` is None."""
    if facts is None:
        return {}
    named = {
        "card": facts["card"],
        "microBatchSize": facts["microBatch"],
        "gradientCheckpointing": facts.get("gradientCheckpointing"),
        "trainingMemory": _quantity(facts["trainingBytes"]),
        "servingMemory": _quantity(facts["servingBytes"]),
        "hostMemory": _quantity(facts["hostBytes"]),
        "volume": _quantity(facts["volumeBytes"]),
        "trainingSeconds": facts["seconds"],
    }
    return {name: value for name, value in named.items() if value is not None}


def sentence(estimate: Estimate) -> str:
    """Return the estimate as one sentence for a status message."""
    text = f"training needs about {gib(estimate.training.total)}"
    if estimate.card is not None:
        text += f" of the {gib(estimate.card.memory)} of {estimate.card.name}"
    text += f" with micro-batch size {estimate.micro_batch}"
    if not estimate.checkpointing:
        text += " and without gradient checkpointing"
    if estimate.seconds is not None:
        text += f" and takes {'' if estimate.seconds < 60 else 'approximately '}"
        text += estimated(estimate.seconds)
    if estimate.serving is not None:
        text += f"; serving needs about {gib(estimate.serving.total)}"
    return text


def _quantity(size: int | None) -> str | None:
    return None if size is None else f"{math.ceil(size / 2**20)}Mi"


def _row(label: str, size: int) -> str:
    return f"  {label:<{WIDTH}}{size / GIB:>8.2f} GiB"


def _sum(size: int, share: str, *, fits: bool, has_card: bool) -> str:
    verdict = ("fits" if fits else "DOES NOT FIT") if has_card else "GPU unknown"
    line = f"  {'total':<{WIDTH}}{size / GIB:>8.2f} GiB  "
    return line + ": ".join(part for part in (share, verdict) if part)
