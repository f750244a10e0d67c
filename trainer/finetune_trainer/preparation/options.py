"""Options of the ``prepare`` command. No heavy import."""

import argparse

from finetune_api import quantity
from finetune_api.contracts.destinations import Destinations
from finetune_trainer.estimate.budget import EstimateOptions
from finetune_trainer.estimate.serving import ServingOptions
from finetune_trainer.runtime import cards
from finetune_trainer.runtime.log import log


def add(command: argparse.ArgumentParser) -> None:
    """Add the options of ``prepare`` to its parser."""
    command.add_argument(
        "--card",
        action="append",
        default=[],
        help="GPU model, as in the node label nvidia.com/gpu.product. For several GPU models, "
        "repeat the option; the memory check then uses the GPU with the least memory. To skip the "
        "memory check, omit the option",
    )
    command.add_argument(
        "--driver",
        type=int,
        help="number of the NVIDIA driver branch on the GPU nodes (example: 580); omit the option "
        "if the branch is not known",
    )
    command.add_argument(
        "--compute-capability",
        help="compute capability of the GPUs, as MAJOR.MINOR; omit it if it is not known",
    )
    command.add_argument(
        "--serving-share",
        type=float,
        help="gpuMemoryUtilization of the serving pods; omit it if nothing is served",
    )
    command.add_argument(
        "--serving-length", type=int, help="maxModelLen of the serving pods, in tokens"
    )
    command.add_argument(
        "--serving-dtype",
        choices=("auto", "float16", "bfloat16", "float32"),
        default="auto",
        help="data type in which the serving pods compute",
    )
    command.add_argument(
        "--volume-size",
        help="value of storage.size; omit it to check only the free space of the volume",
    )
    command.add_argument(
        "--train-memory",
        help="memory limit of the train container; omit it to skip the check of host memory",
    )
    command.add_argument(
        "--no-merge", action="store_true", help="do not plan disk space for a merged model"
    )
    command.add_argument(
        "--untrusted-volume",
        action="store_true",
        help="an earlier FineTuneJob used the volume: keep only downloaded files that have the "
        "SHA-256 reported by their source, and delete all other files on the volume",
    )
    command.add_argument(
        "--destinations",
        type=_destinations,
        help="allowed network connections, as JSON of finetune_api.contracts.destinations; omit "
        "the option to allow all connections",
    )
    command.add_argument(
        "--ca-certificates",
        help="CA certificates in PEM format, in addition to the CA certificates of the image",
    )


def estimate(options: argparse.Namespace) -> EstimateOptions:
    """Return the options of the estimate."""
    found = {name: cards.find(name) for name in options.card}
    for name in (name for name, card in found.items() if card is None):
        log(f"GPU {name} is not in the GPU table: its memory is not checked")
    known = [card for card in found.values() if card is not None]
    card = cards.smallest(known)
    share, length = options.serving_share, options.serving_length
    return EstimateOptions(
        card=card,
        others=tuple(other for other in known if other is not card),
        serving=None
        if share is None
        else ServingOptions(max_model_len=length, share=share, dtype=options.serving_dtype),
        merges=not options.no_merge,
        volume=_bytes(options.volume_size),
        train_memory=_bytes(options.train_memory),
    )


def _bytes(written: str | None) -> int | None:
    return None if written is None else int(quantity.amount(written))


def _destinations(text: str) -> Destinations:
    return Destinations.model_validate_json(text)
