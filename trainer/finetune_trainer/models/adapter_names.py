"""Compare the tensors in the files of an adapter with those that a model would load from them.

PEFT loads the tensors whose names both have, and is silent about all others: an adapter whose names
are those of another model is loaded as an untrained one.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import peft

from finetune_trainer.checkpointing.adapter_files import WEIGHTS
from finetune_trainer.checkpointing.safetensors_header import read_header


def difference(model: Any, folder: Path) -> str | None:
    """Return how an adapter in ``folder`` differs from that of a PEFT model; None if it does not.

    The tensors of the base that PEFT may save beside an adapter, as embedding and head, are loaded.
    """
    saved = read_header(folder, [WEIGHTS]).tensors.keys()
    # Otherwise PEFT may ask the hub whether the vocabulary of the base has changed.
    expected = peft.get_peft_model_state_dict(model, save_embedding_layers=False).keys()
    missing = expected - saved
    ignored = saved - expected - model.state_dict().keys()
    if not missing and not ignored:
        return None
    return "; ".join(
        f"{who} contains {_listed(names)}, which {other} does not contain"
        for names, who, other in (
            (ignored, "the adapter", "the model"),
            (missing, "the model", "the adapter"),
        )
        if names
    )


def _listed(names: Collection[str]) -> str:
    more = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
    return f"the tensor {min(names)}{more}"
