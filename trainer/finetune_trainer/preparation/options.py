"""The GPUs and pods of a request, as the estimate needs them. No heavy import."""

from finetune_api import quantity
from finetune_api.contracts.stage_request import PrepareStageRequest
from finetune_trainer.devices import cards
from finetune_trainer.devices.cards import Card
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.estimate.budget import EstimateOptions
from finetune_trainer.runtime.log import log

SERVING_DTYPES = ("auto", "float16", "bfloat16", "float32")


def estimate(request: PrepareStageRequest, *, card: Card | None = None) -> EstimateOptions:
    """Return the options of the estimate. Raises InvalidSpec.

    card: the GPU of this machine, which is used in addition to those of the request.
    """
    if request.serving is not None and request.serving.dtype not in SERVING_DTYPES:
        raise InvalidSpec(
            f"the serving pods compute in {request.serving.dtype}, which is not supported: set the "
            f"chart value serving.dtype to one of {', '.join(SERVING_DTYPES)}"
        )
    listed = {name: cards.find(name) for name in request.cards}
    for name in (name for name, gpu in listed.items() if gpu is None):
        log(f"GPU {name} is not in the GPU table: its memory is not checked")
    gpus = [gpu for gpu in (card, *listed.values()) if gpu is not None]
    smallest = cards.smallest(gpus)
    return EstimateOptions(
        card=smallest,
        others=tuple(other for other in gpus if other is not smallest),
        serving=request.serving,
        merges=request.merges,
        volume=_bytes(request.volume_size),
        train_memory=_bytes(request.train_memory),
    )


def _bytes(written: str | None) -> int | None:
    return None if written is None else int(quantity.amount(written))
