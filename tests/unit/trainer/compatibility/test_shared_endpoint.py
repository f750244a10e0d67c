"""What a shared endpoint cannot serve is rejected with the field to change."""

from typing import Any

import pytest

from finetune_api.contracts.endpoint import codes_digest, source_digest
from finetune_api.contracts.publish_targets import SharedEndpoint
from finetune_api.v1alpha1.model import Model
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.compatibility import shared_endpoint
from finetune_trainer.errors import InvalidSpec

FILES = {"model.safetensors": "a" * 64}


def endpoint(**changes: Any) -> SharedEndpoint:
    return SharedEndpoint(**{"name": "chat", "max_rank": 16, "model": "hf://acme/base", **changes})


def recipe(lora: dict[str, Any], quantization: dict[str, Any] | None = None) -> Training:
    advanced = {"quantization": quantization or {}}
    return Training.model_validate({"lora": lora, "advanced": advanced})


@pytest.mark.parametrize(
    "lora", [{}, {"r": 16, "useRslora": True}, {"targetModules": ["q_proj", "v_proj"]}]
)
def test_what_an_endpoint_serves(lora: dict[str, Any]) -> None:
    shared_endpoint.check_recipe(recipe(lora), endpoint())


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ({"r": 17}, "training.lora.r is 17, but FineTuneEndpoint chat serves .* rank 16: lower"),
        ({"useDora": True}, "training.lora.useDora"),
        ({"modulesToSave": ["embed_tokens", "lm_head"]}, "modulesToSave is embed_tokens, lm_head"),
        ({"targetModules": ["model.lm_head"]}, "targetModules contains model.lm_head"),
    ],
)
def test_what_an_endpoint_does_not_serve(lora: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidSpec, match=f"{said}.*serving.mode: merged"):
        shared_endpoint.check_recipe(recipe(lora), endpoint())


@pytest.mark.parametrize(
    "quantization", [{"type": "fp4"}, {"doubleQuant": False}, {"computeDtype": "float16"}]
)
def test_another_quantization(quantization: dict[str, Any]) -> None:
    (name,) = quantization
    trained = recipe({}, quantization)
    with pytest.raises(InvalidSpec, match=rf"training\.advanced\.quantization\.{name} is "):
        shared_endpoint.check_recipe(trained, endpoint())
    shared_endpoint.check_recipe(trained, endpoint(base="original"))


def test_another_base_is_found_by_its_name_until_its_digest_is_known() -> None:
    other = Model(source="s3://models/base")
    with pytest.raises(InvalidSpec, match=r"s3://models/base, but .* serves hf://acme/base"):
        shared_endpoint.check_source(other, endpoint())
    shared_endpoint.check_source(other, endpoint(source=source_digest(FILES)))
    shared_endpoint.check_source(Model(source="hf://acme/base"), endpoint())


def test_files_and_codes() -> None:
    known = endpoint(source=source_digest(FILES), codes=codes_digest(FILES))
    changed = FILES | {"model.safetensors": "b" * 64}
    shared_endpoint.check_files(FILES, known)
    shared_endpoint.check_codes(FILES, known)
    with pytest.raises(InvalidSpec, match=r"model\.revision"):
        shared_endpoint.check_files(changed, known)
    with pytest.raises(InvalidSpec, match="base: original"):
        shared_endpoint.check_codes(changed, known)
    # The endpoint has no base yet.
    shared_endpoint.check_files(changed, endpoint())
    shared_endpoint.check_codes(changed, endpoint())
    shared_endpoint.check_codes(changed, known.model_copy(update={"base": "original"}))
