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
    found = families.support(complete(config), transformers=installed())
    found = families.without_large_heads(found, layers.largest_head)
    if found.unknown and not layers.sdpa:
        found = dataclasses.replace(found, padded=(EAGER,))
    if layers.recurrent and found.packed:
        found = dataclasses.replace(
            found,
            packed=(),
            reason="packed rows would see each other: the base has layers that are not attention "
            f"({', '.join(layers.recurrent)})",
        )
    return found


def follow(job: JobConfig, cards: Iterable[Card], support: Support) -> JobConfig:
    """Return a job that packs rows only if they stay apart on each of its cards."""
    recipe = job.training
    if recipe.packing == "never" or all(
        kernels.packs(recipe, capability=each, support=support)
        for each in kernels.capabilities(cards)
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
    lists = {key: tuple(each) for key, each in written.items() if isinstance(each, list)}
    found = Support(**{**written, **lists})
    if version == installed():
        return found
    here = families.support(complete(config), transformers=installed())
    found = dataclasses.replace(
        found,
        padded=_both(found.padded, here.padded) or here.padded,
        packed=_both(found.packed, here.packed),
        capped=found.capped or here.capped,
    )
    if packed and not found.packed:
        raise InvalidSpec(
            "the prepare stage packed the rows with another trainer image, but it is not tested "
            f"that the base keeps packed rows apart with transformers {installed()} of this "
            "image: use the image of the prepare stage, or set training.packing to never to train "
            "a new revision without packing"
        )
    return found


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
    found: dict[str, Any] = library_config.of(config).to_dict()
    return found


def installed() -> str:
    """Return the version of transformers in this image."""
    return importlib.metadata.version("transformers")


def _both(one: Iterable[str], other: Iterable[str]) -> tuple[str, ...]:
    return tuple(each for each in one if each in set(other))
