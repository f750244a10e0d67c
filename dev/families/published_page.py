"""The second table of the page: the published models."""

from __future__ import annotations

from collections.abc import Iterator

import generated_part
from families import circle, layouts, results
from families.circle import Circle
from families.published import MODELS

MOST = 0.8
"""Share of a tiny model: convolutions and small projections of Mamba are not quantized, either."""
HEAD = """
## Published models

The following models are among those with the most downloads. For each, a tiny random model in the
layout of its repository goes through all stages on a CPU: `prepare`, NF4 quantization, three steps
with LoRA on all linear layers, merge. Plain transformers then loads the merged model. Its logits
must equal those of the published model with the adapter, whose weights bitsandbytes has quantized
and dequantized, up to {bound:.1%} of their Euclidean norm in the median of all tokens, which is the
rounding of the merged weights to float16; the adapter itself changes them by at least {effect:.0%}.

* **trained and merged**: `yes`, or `rejected` by the stage `prepare`, for the reason in the notes.
* **verified**: whether the stage `train` records the log-probabilities with which the serving pods
  are [verified](../concepts/verification.md). Otherwise, they verify only digests.
* **quantized**: `yes`, or `partly`: the weights of the experts, which are most of the model, stay
  in 16 bits and get no adapter, so it needs almost as much GPU memory as without quantization.
* **names**: whether a published repository has exactly the tensors that the trainer expects, by its
  config.json and the names in its index; the notes contain the name of the model. `unknown` means
  that we could read no index of this model. An index has no shapes.

| models | family | trained and merged | verified | quantized | names | notes |
|---|---|---|---|---|---|---|
"""


def text() -> str:
    """Return the part of the page."""
    return "".join([HEAD.format(bound=circle.BOUND, effect=circle.EFFECT), *_lines()])


def _lines() -> Iterator[str]:
    recorded = results.load()
    for name in sorted({*recorded.circles, *recorded.names}, key=str.lower):
        ran, layout = recorded.circles.get(name), layouts.all_layouts().get(name)
        family = (
            MODELS[name].family if name in MODELS else str(layout and layout.config["model_type"])
        )
        names = recorded.names.get(name)
        notes = [
            ran.rejected or ran.broken if ran else "",
            f"names of {layout.model}" if layout else "",
            names or "",
        ]
        yield generated_part.row(
            name,
            f"`{family}`",
            *_circle(ran),
            "unknown" if names is None else "rejected" if names else "yes",
            "; ".join(note for note in notes if note),
        )


def _circle(result: Circle | None) -> tuple[str, str, str]:
    if result is None:
        return "–", "–", "–"
    if result.rejected or result.broken:
        return "rejected" if result.rejected else "no", "–", "–"
    return "yes", "yes" if result.verified else "no", "yes" if result.quantized > MOST else "partly"
