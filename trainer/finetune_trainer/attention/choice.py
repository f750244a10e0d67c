"""Which attention kernels and packing a job may use: decided in ``prepare``, followed by ``train``.

``prepare`` reads the table of model families and inspects the model on the meta device, before a
GPU is requested, and publishes the decision with the dataset. An attempt at training follows it
unless its image contains another version of transformers; then the table of that image counts, too.
"""

import dataclasses
import importlib.metadata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from finetune_api.contracts.job_config import JobConfig
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.attention import families, kernels, library_config
from finetune_trainer.attention.kernels import EAGER, Support
from finetune_trainer.attention.layers import Layers
from finetune_trainer.devices.cards import Card
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.volume.files import read_json, write_json

FILE = "attention.json"
"""File of the dataset's folder with the decision. The dataset's digest covers it."""


def choose(config: Mapping[str, Any], layers: Layers) -> Support:
    """Return the kernels that compute a base. Raise InvalidSpec if it cannot be trained at all.

    config: config.json of the base. layers: of the model that it describes.
    """
    support = families.support(complete(config), transformers=installed())
    support = families.without_large_heads(support, layers.largest_head)
    if support.unknown and not layers.sdpa:
        support = dataclasses.replace(support, padded=(EAGER,))
    if layers.recurrent and support.packed:
        support = dataclasses.replace(
            support,
            packed=(),
            reason="packed rows would see each other: the base has layers that are not attention "
            f"({', '.join(layers.recurrent)})",
        )
    return support


def follow(job: JobConfig, cards: Iterable[Card], support: Support) -> JobConfig:
    """Return a job that packs rows only if they stay apart on each of its cards."""
    recipe = job.training
    if recipe.packing == "never" or all(
        kernels.packs(recipe, capability=capability, support=support)
        for capability in kernels.capabilities(cards)
    ):
        return job
    unpacked = recipe.model_copy(update={"packing": "never"})
    return job.model_copy(update={"training": unpacked})


def warnings(support: Support) -> list[str]:
    """Return a warning about a base that was not measured, for the status."""
    if not support.unknown:
        return []
    return [
        f"{support.reason}: the training uses the kernel {support.padded[0]} and does not pack "
        "rows, which is slower than FlashAttention-2 with packed rows"
    ]


def save(folder: Path, support: Support) -> None:
    """Write the decision to the dataset's folder."""
    write_json(folder / FILE, {**dataclasses.asdict(support), "transformers": installed()})


def load(folder: Path, config: Mapping[str, Any], *, packed: bool) -> Support:
    """Return the decision that was published in the dataset's folder.

    Raise InvalidSpec if the rows are packed, and the transformers of this image is not known to
    keep them apart. config: config.json of the base. packed: whether the rows are.
    """
    file = folder / FILE
    # A trainer without the table wrote no file.
    written: dict[str, Any] = read_json(file) if file.is_file() else {}
    version = written.pop("transformers", None)
    lists = {key: tuple(names) for key, names in written.items() if isinstance(names, list)}
    support = Support(**{**written, **lists})
    if version == installed():
        return support
    here = families.support(complete(config), transformers=installed())
    support = dataclasses.replace(
        support,
        padded=_both(support.padded, here.padded) or here.padded,
        packed=_both(support.packed, here.packed),
        capped=support.capped or here.capped,
    )
    if packed and not support.packed:
        raise InvalidSpec(
            "the prepare stage packed the rows with another trainer image, but it is not tested "
            f"that the base keeps packed rows apart with transformers {installed()} of this "
            "image: use the image of the prepare stage, or set training.packing to never to train "
            "a new revision without packing"
        )
    return support


def require_apart(recipe: Training, capability: tuple[int, int] | None, support: Support) -> None:
    """Raise InvalidSpec if packed rows would see each other on this device."""
    if not kernels.packs(recipe, capability=capability, support=support):
        raise InvalidSpec(
            "the prepare stage packed the rows for a GPU with FlashAttention-2: on this device, "
            "the attention kernel of the base would not keep them apart. Set training.packing to "
            "never, or use spec.placement to select an Ampere or later card"
        )


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config.json with the defaults of its family, which also count."""
    settings: dict[str, Any] = library_config.of(config).to_dict()
    return settings


def installed() -> str:
    """Return the version of transformers in this image."""
    return importlib.metadata.version("transformers")


def _both(first: Iterable[str], second: Iterable[str]) -> tuple[str, ...]:
    return tuple(kernel for kernel in first if kernel in set(second))
