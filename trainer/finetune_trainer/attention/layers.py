"""Finds, in a model on the meta device, layers that packing or FlashAttention-2 cannot compute.

The table of families covers families and the types of layers that config.json names. This check
covers the model itself, however its family names its layers.
"""

import re
from dataclasses import dataclass
from typing import Any

RECURRENT = re.compile(
    r"Mamba|Recurrent|Delta(Net|Attention)|LightningAttention|LinearAttention|ShortConv|SSM|Rwkv"
    r"|RWKV|LSTM"
)
"""Class names of layers that carry a state from one token to the next."""
STATES = frozenset({"A_log", "dt_bias", "time_decay"})
"""Names of parameters that only such layers have."""
SIZES = ("head_dim", "qk_head_dim", "head_size", "v_head_dim")


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What the layers of a model need.

    recurrent: class names of layers that are not attention. largest_head: size of the largest head;
    0 if unknown. sdpa: whether the class supports SDPA.
    """

    recurrent: tuple[str, ...]
    largest_head: int
    sdpa: bool


def inspect(model: Any) -> Layers:
    """Return what the layers of a language model need."""
    from torch import nn

    recurrent, sizes = set(), [0]
    for name, module in model.named_modules():
        if re.search(r"vision|visual|audio|speech", name):
            continue
        kind = type(module).__name__
        state = STATES & {parameter for parameter, _ in module.named_parameters(recurse=False)}
        if state or isinstance(module, nn.Conv1d | nn.RNNBase) or RECURRENT.search(kind):
            recurrent.add(kind)
        if "Attention" in kind:
            head_sizes = (getattr(module, size, None) for size in SIZES)
            sizes += [size for size in head_sizes if isinstance(size, int)]
    return Layers(
        recurrent=tuple(sorted(recurrent)),
        largest_head=max(sizes),
        sdpa=bool(getattr(model, "_supports_sdpa", False)),
    )
