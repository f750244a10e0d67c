"""The table that chooses the training library: image, model family and recipe."""

from pathlib import Path
from typing import Any

import pytest

from finetune_api.v1alpha1.resources import Backend
from finetune_api.v1alpha1.training.advanced import AdvancedTraining, Quantization
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.attention import families
from finetune_trainer.attention.kernels import ALL
from finetune_trainer.compatibility import backend_choice
from finetune_trainer.compatibility.backend_choice import UNSLOTH_FAMILIES, Facts
from finetune_trainer.errors import InvalidSpec

PLAIN = {"trl": "1.14.2"}
WITH_UNSLOTH = {"trl": "1.14.2", "unsloth": "2026.10.9"}
FLOAT32 = Quantization(compute_dtype="float32")


def facts(
    backend: str = "auto",
    *,
    image: dict[str, str] = WITH_UNSLOTH,
    family: str | None = "llama",
    packing: Any = "auto",
    **advanced: Any,
) -> Facts:
    recipe = Training(packing=packing, advanced=AdvancedTraining(backend=backend, **advanced))
    return Facts(recipe=recipe, image=image, family=family)


@pytest.mark.parametrize("family", sorted(UNSLOTH_FAMILIES))
def test_auto_selects_unsloth_if_image_family_and_recipe_allow_it(family: str) -> None:
    assert backend_choice.choose(facts(family=family, packing="never")) == Backend(
        name="unsloth",
        version="2026.10.9",
        reason=f"the trainer image contains Unsloth, which supports model family {family}",
        automatic="unsloth",
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": PLAIN}, "the trainer image does not contain Unsloth"),
        ({"family": "olmo2"}, "Unsloth is not tested with model family olmo2"),
        ({"family": "gemma2"}, "Unsloth does not pack rows for models of the family gemma2"),
        (
            {"family": "gemma2", "packing": "always"},
            "Unsloth does not pack rows for models of the family gemma2",
        ),
        ({"quantization": FLOAT32}, "Unsloth does not compute in float32 on a GPU"),
        (
            {"attn_implementation": "eager"},
            "Unsloth ignores training.advanced.attnImplementation",
        ),
    ],
)
def test_auto_selects_trl_otherwise_and_gives_the_reason(
    changes: dict[str, Any], reason: str
) -> None:
    expected = Backend(name="trl", version="1.14.2", reason=reason, automatic="trl")
    assert backend_choice.choose(facts(**changes)) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image": PLAIN},
            "training.advanced.backend is unsloth, but the trainer image does not contain Unsloth: "
            "set backend to auto, or use an image that was built with --build-arg UNSLOTH=yes",
        ),
        (
            {"family": "olmo2"},
            "training.advanced.backend is unsloth, but Unsloth is not tested with model family "
            "olmo2: set backend to auto, or use a model of a tested family (gemma, gemma2, ",
        ),
        (
            {"family": "gemma2"},
            "training.advanced.backend is unsloth, but Unsloth does not pack rows for models of "
            "the family gemma2: set backend to auto, or set training.packing to never",
        ),
        (
            {"quantization": FLOAT32},
            "training.advanced.backend is unsloth, but Unsloth does not compute in float32 on a "
            "GPU: set backend to auto, or set training.advanced.quantization.computeDtype to "
            "bfloat16 or float16",
        ),
    ],
)
def test_unsloth_is_refused_if_it_cannot_train_the_job(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        backend_choice.choose(facts("unsloth", **changes))
    assert str(refusal.value).startswith(message)
    assert backend_choice.choose(facts("auto", **changes)).name == "trl", "the remediation works"
    assert backend_choice.choose(facts("trl", **changes)).name == "trl"


def test_refusal_before_the_family_is_known_concerns_the_image_only() -> None:
    backend_choice.refuse(facts("unsloth", family=None))
    with pytest.raises(InvalidSpec, match="does not contain Unsloth"):
        backend_choice.refuse(facts("unsloth", image=PLAIN, family=None))


@pytest.mark.parametrize("written", ["unsloth", "trl"])
def test_written_backend_is_kept_with_the_one_that_auto_selects(written: str) -> None:
    found = backend_choice.choose(facts(written))
    assert found.name == written
    assert found.version == WITH_UNSLOTH[written]
    assert found.automatic == "unsloth"
    assert found.reason == f"training.advanced.backend is {written}"


@pytest.mark.parametrize("written", ["auto", "unsloth", "trl"])
def test_only_backends_that_can_train_the_job_are_proposed(written: str) -> None:
    assert backend_choice.possible(facts(written)) == ("unsloth", "trl")
    assert backend_choice.possible(facts(written, image=PLAIN)) == ("trl",)
    assert backend_choice.possible(facts(written, family="olmo2")) == ("trl",)


def test_choice_is_published_and_read_unchanged(tmp_path: Path) -> None:
    chosen = backend_choice.choose(facts())
    backend_choice.save(tmp_path, chosen)
    assert backend_choice.load(tmp_path) == chosen


def test_installed_backends_have_versions() -> None:
    assert backend_choice.installed()["trl"].startswith("1.")


def test_rows_of_unsloth_families_may_be_packed() -> None:
    for family in UNSLOTH_FAMILIES:
        assert families.support({"model_type": family}).packed == ALL.packed
