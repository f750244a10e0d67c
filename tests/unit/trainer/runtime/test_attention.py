"""The attention kernel for a recipe, a device and a base model."""

from typing import Any

import pytest

from finetune_api.v1alpha1.training import AdvancedTraining, Quantization, Training
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.runtime import attention

CPU, T4, A10G = None, (7, 5), (8, 6)


def recipe(wanted: str = "auto", compute: Any = "float16") -> Training:
    quantization = Quantization(compute_dtype=compute)
    return Training(
        advanced=AdvancedTraining(attn_implementation=wanted, quantization=quantization)
    )


@pytest.fixture(autouse=True)
def _without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


@pytest.mark.parametrize(
    ("wanted", "capability", "packed", "capped", "expected"),
    [
        ("auto", A10G, True, False, "varlen"),
        ("auto", A10G, False, False, "varlen"),
        ("auto", A10G, True, True, "sdpa"),
        ("auto", T4, True, False, "sdpa"),
        ("auto", CPU, True, False, "varlen"),
        ("auto", CPU, False, False, "sdpa"),
        ("auto", CPU, True, True, "sdpa"),
        ("flash_attention_2", A10G, False, False, "varlen"),
        ("flash_attention_2", CPU, False, False, "varlen"),
        ("sdpa", A10G, True, False, "sdpa"),
        ("eager", A10G, True, False, "eager"),
    ],
)
def test_kernel_without_the_package_flash_attn(
    wanted: str, capability: tuple[int, int] | None, packed: bool, capped: bool, expected: str
) -> None:
    chosen = attention.choose(recipe(wanted), packed=packed, capability=capability, capped=capped)
    assert chosen == expected


@pytest.mark.parametrize(
    ("capability", "compute", "expected"),
    [
        (A10G, "bfloat16", "flash_attention_2"),
        (A10G, "float32", "sdpa"),
        (T4, "float16", "sdpa"),
        (CPU, "bfloat16", "varlen"),
    ],
)
def test_package_is_preferred_where_it_runs(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int] | None,
    compute: str,
    expected: str,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    for capped in (False, True):
        chosen = attention.choose(
            recipe(compute=compute), packed=True, capability=capability, capped=capped
        )
        assert chosen == (expected if capability or not capped else "sdpa")


def test_flash_attention_is_refused_for_a_base_that_it_does_not_support() -> None:
    wanted = recipe("flash_attention_2")
    attention.check(wanted, capability=A10G, capped=False)
    attention.check(recipe(), capability=A10G, capped=True)
    with pytest.raises(InvalidSpec, match="soft-capping or dropout of the attention"):
        attention.check(wanted, capability=A10G, capped=True)


def test_soft_capping_and_attention_dropout_are_read_from_the_config() -> None:
    assert not attention.is_capped({"attention_dropout": 0.0, "attn_logit_softcapping": None})
    assert not attention.is_capped({})
    assert attention.is_capped({"attn_logit_softcapping": 50.0})
    assert attention.is_capped({"attention_dropout": 0.1})
