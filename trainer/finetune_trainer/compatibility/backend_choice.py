"""Chooses the training library of a job: one table of trainer image, model family and recipe.

``prepare`` evaluates the table once and publishes the choice with the dataset. All attempts at
training follow the published choice, whatever their image contains.
"""

import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_api.contracts.job_config import JobConfig
from finetune_api.v1alpha1.resources import Backend
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.models import base_config
from finetune_trainer.volume.files import read_json, write_json

FILE = "backend.json"
"""File of the dataset's folder with the choice. The dataset's digest covers it."""
AUTO, TRL, UNSLOTH = "auto", "trl", "unsloth"
UNSLOTH_FAMILIES = frozenset(
    {
        "gemma",
        "gemma2",
        "gemma3_text",
        "llama",
        "mistral",
        "phi",
        "phi3",
        "qwen2",
        "qwen3",
        "smollm3",
    }
)
"""Values of ``model_type`` in config.json with which the tests train on Unsloth. Unsloth patches
model classes as it loads them, so a family that was never tested may train wrongly."""
NOT_PACKED = frozenset({"gemma2"})
"""Families that Unsloth trains without packing: ``PADDING_FREE_BLOCKLIST`` in unsloth.trainer."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The inputs of the table.

    image: versions of the training libraries in the trainer image, by backend. family: value of
    ``model_type``, None before config.json of the base was read; for a multimodal base, that of its
    text model.
    """

    recipe: Training
    image: Mapping[str, str]
    family: str | None = None
    multimodal: bool = False

    def of_base(self, config: Mapping[str, Any]) -> "Facts":
        """Return the facts with those of a base. config: its config.json."""
        family = base_config.text_config(config).get("model_type", config.get("model_type"))
        return replace(self, family=family, multimodal=base_config.is_multimodal(config))


@dataclass(frozen=True, kw_only=True)
class Obstacle:
    """A reason against Unsloth. Without a remediation, a job may set Unsloth nevertheless."""

    applies: Callable[[Facts], bool]
    reason: str
    remediation: str | None = None


OBSTACLES = (
    Obstacle(
        applies=lambda facts: UNSLOTH not in facts.image,
        reason="the trainer image does not contain Unsloth",
        remediation="use an image that was built with --build-arg UNSLOTH=yes",
    ),
    Obstacle(
        applies=lambda facts: facts.multimodal,
        reason="Unsloth does not load the text model of a multimodal base alone",
        remediation="use a base for text alone",
    ),
    Obstacle(
        applies=lambda facts: facts.family is not None and facts.family not in UNSLOTH_FAMILIES,
        reason="Unsloth is not tested with model family {family}",
        remediation=f"use a model of a tested family ({', '.join(sorted(UNSLOTH_FAMILIES))})",
    ),
    Obstacle(
        applies=lambda facts: facts.family in NOT_PACKED and facts.recipe.packing != "never",
        reason="Unsloth does not pack rows for models of the family {family}",
        remediation="set training.packing to never",
    ),
    Obstacle(
        applies=lambda facts: facts.recipe.advanced.quantization.compute_dtype == "float32",
        reason="Unsloth does not compute in float32 on a GPU",
        remediation="set training.advanced.quantization.computeDtype to bfloat16 or float16",
    ),
    Obstacle(
        applies=lambda facts: facts.recipe.advanced.liger_fused_linear_cross_entropy,
        reason="Unsloth does not use Liger's loss",
        remediation="set training.advanced.ligerFusedLinearCrossEntropy to false",
    ),
    Obstacle(
        applies=lambda facts: facts.recipe.advanced.liger_layers is True,
        reason="Unsloth does not use Liger's layers",
        remediation="remove training.advanced.ligerLayers",
    ),
    Obstacle(
        applies=lambda facts: facts.recipe.advanced.attn_implementation != "auto",
        reason="Unsloth ignores training.advanced.attnImplementation",
    ),
)
"""The table. ``auto`` selects Unsloth if no obstacle applies, otherwise TRL."""


def installed() -> dict[str, str]:
    """Return the versions of the training libraries in this image. Imports none of them."""
    return {
        name: importlib.metadata.version(name)
        for name in (TRL, UNSLOTH)
        if importlib.util.find_spec(name) is not None
    }


def choose(facts: Facts) -> Backend:
    """Return the backend of a job. Raise InvalidSpec if the job sets one that cannot train it."""
    written = facts.recipe.advanced.backend
    against = next((obstacle for obstacle in OBSTACLES if obstacle.applies(facts)), None)
    automatic = UNSLOTH if against is None else TRL
    if written != AUTO:
        refuse(facts)
        reason = f"training.advanced.backend is {written}"
    elif against is None:
        reason = f"the trainer image contains Unsloth, which supports model family {facts.family}"
    else:
        reason = against.reason.format(family=facts.family)
    name = automatic if written == AUTO else written
    return Backend(name=name, version=facts.image.get(name, ""), reason=reason, automatic=automatic)


def refuse(facts: Facts) -> None:
    """Raise InvalidSpec if the job sets Unsloth, and Unsloth cannot train the job."""
    if facts.recipe.advanced.backend != UNSLOTH:
        return
    for obstacle in OBSTACLES:
        if obstacle.remediation is not None and obstacle.applies(facts):
            reason = obstacle.reason.format(family=facts.family)
            raise InvalidSpec(
                f"training.advanced.backend is unsloth, but {reason}: set backend to auto, or "
                f"{obstacle.remediation}"
            )


def possible(facts: Facts) -> tuple[str, ...]:
    """Return the backends that can train a job, whichever it sets."""
    automatic = choose(replace(facts, recipe=with_backend(facts.recipe, AUTO))).name
    return tuple(dict.fromkeys((automatic, TRL)))


def require_present(name: str) -> None:
    """Raise InvalidSpec if this image does not contain the backend that was chosen."""
    if name not in installed():
        raise InvalidSpec(
            f"the prepare stage selected the backend {name}, but this trainer image does not "
            "contain it: use the image of the prepare stage, or set training.advanced.backend to "
            "trl to train a new revision with trl"
        )


def version_warnings(backend: Backend) -> list[str]:
    """Return a warning if this image contains another version than the prepare stage selected."""
    version = installed()[backend.name]
    if version == backend.version:
        return []
    return [
        f"the prepare stage selected {backend.name} {backend.version}, but this image contains "
        f"version {version}, so training uses version {version}"
    ]


def with_backend(recipe: Training, name: str) -> Training:
    """Return a recipe with the chosen backend."""
    advanced = recipe.advanced.model_copy(update={"backend": name})
    return recipe.model_copy(update={"advanced": advanced})


def follow(job: JobConfig, backend: Backend) -> JobConfig:
    """Return a job with the chosen backend in its recipe."""
    return job.model_copy(update={"training": with_backend(job.training, backend.name)})


def save(folder: Path, backend: Backend) -> None:
    """Write the choice to the dataset's folder."""
    write_json(folder / FILE, backend.model_dump())


def load(folder: Path) -> Backend:
    """Return the choice that was published in the dataset's folder."""
    return Backend.model_validate(read_json(folder / FILE))
