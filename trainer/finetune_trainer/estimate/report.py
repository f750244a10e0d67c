"""Formats an estimate as a table, a sentence, facts of a manifest, and fields of status."""

import math
from typing import Any

from finetune_api.contracts.durations import estimated
from finetune_trainer.estimate.budget import Estimate
from finetune_trainer.estimate.memory import GIB
from finetune_trainer.estimate.verdict import gib

WIDTH = 46


def table(found: Estimate, *, title: str) -> str:
    """Return the estimate as a table of text."""
    card = found.card
    where = f"{card.name} ({gib(card.memory)})" if card else "an unknown GPU"
    lines = [f"{title} on {where}", ""]
    lines += [
        f"Training  {found.backend}, micro-batch {found.micro_batch} × {found.accumulation} "
        f"accumulation steps, {found.length} tokens per row"
        + ("" if found.checkpointing else ", without gradient checkpointing")
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
    parts = {label: getattr(found.training, name) for name, label in names.items()}
    lines += [_row(label, size) for label, size in parts.items() if size]
    share = f"{found.training.total / card.memory:.0%} of the GPU" if card else ""
    lines += [_sum(found.training.total, share, fits=found.training_fits, known=card is not None)]
    if found.serving is not None:
        serving = found.serving
        lines += ["", f"Serving   vLLM, maxModelLen {serving.length} tokens"]
        lines += [
            _row("merged weights, 16 bits", serving.weights),
            _row("KV cache of one request of that length", serving.cache),
            _row("CUDA graphs", serving.graphs),
            _row("CUDA, activations, sampling", serving.working),
        ]
        share = f"of {gib(serving.limit(card))} for vLLM" if card else ""
        lines += [_sum(serving.total, share, fits=found.serving_fits, known=card is not None)]
    lines += ["", "Other resources", _row("host memory of the train pod", found.host)]
    lines += [_row("volume", found.volume)]
    if found.tokens is not None:
        lines += [f"  {'training tokens':<{WIDTH}}{found.tokens:>12,}"]
    if found.seconds is not None:
        lines += [f"  {'training time (approximate)':<{WIDTH}}{estimated(found.seconds):>12}"]
    return "\n".join(lines)


def facts(found: Estimate) -> dict[str, Any]:
    """Return the estimate as facts of the dataset's manifest."""
    return {
        "card": found.card.name if found.card else None,
        "backend": found.backend,
        "microBatch": found.micro_batch,
        "gradientCheckpointing": found.checkpointing,
        "length": found.length,
        "trainingBytes": found.training.total,
        "servingBytes": found.serving.total if found.serving else None,
        "hostBytes": found.host,
        "volumeBytes": found.volume,
        "tokens": found.tokens,
        "seconds": None if found.seconds is None else round(found.seconds),
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


def sentence(found: Estimate) -> str:
    """Return the estimate as one sentence for a status message."""
    text = f"training needs about {gib(found.training.total)}"
    if found.card is not None:
        text += f" of the {gib(found.card.memory)} of {found.card.name}"
    text += f" with micro-batch size {found.micro_batch}"
    if not found.checkpointing:
        text += " and without gradient checkpointing"
    if found.seconds is not None:
        text += f" and takes {'' if found.seconds < 60 else 'approximately '}"
        text += estimated(found.seconds)
    if found.serving is not None:
        text += f"; serving needs about {gib(found.serving.total)}"
    return text


def _quantity(size: int | None) -> str | None:
    return None if size is None else f"{math.ceil(size / 2**20)}Mi"


def _row(label: str, size: int) -> str:
    return f"  {label:<{WIDTH}}{size / GIB:>8.2f} GiB"


def _sum(size: int, share: str, *, fits: bool, known: bool) -> str:
    verdict = ("fits" if fits else "DOES NOT FIT") if known else "GPU unknown"
    line = f"  {'total':<{WIDTH}}{size / GIB:>8.2f} GiB  "
    return line + ": ".join(part for part in (share, verdict) if part)
