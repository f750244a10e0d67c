"""The attention kernel for a recipe, a device and a base model."""

from typing import Any

import pytest

from finetune_api.v1alpha1.training.advanced import AdvancedTraining, Quantization
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.attention import kernels
from finetune_trainer.attention.kernels import ALL, Support
from finetune_trainer.errors import InvalidSpec

CPU, T4, A10G = None, (7, 5), (8, 6)


CAPPED = Support(capped=True)
SDPA_ONLY = Support(padded=("sdpa", "eager"), packed=("sdpa", "eager"), reason="it is special")
EAGER_ONLY = Support(padded=("eager",), packed=("eager",), reason="it has sinks")
UNPACKED = Support(packed=(), reason="it has other layers")
VARLEN_PACKS = Support(packed=("varlen",), reason="its masks ignore the rows")
SDPA_PACKS = Support(packed=("sdpa", "eager"), reason="its layers drop the borders")


def recipe(wanted: str = "auto", compute: Any = "float16", packing: Any = "auto") -> Training:
    quantization = Quantization(compute_dtype=compute)
    return Training(
        packing=packing,
        advanced=AdvancedTraining(attn_implementation=wanted, quantization=quantization),
    )


@pytest.fixture(autouse=True)
def _without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


@pytest.mark.parametrize(
    ("wanted", "capability", "packed", "support", "expected"),
    [
        ("auto", A10G, True, ALL, "varlen"),
        ("auto", A10G, False, ALL, "varlen"),
        ("auto", A10G, True, CAPPED, "sdpa"),
        ("auto", T4, True, ALL, "sdpa"),
        ("auto", CPU, True, ALL, "sdpa"),
        ("auto", CPU, False, ALL, "sdpa"),
        ("auto", A10G, True, SDPA_ONLY, "sdpa"),
        ("auto", A10G, False, EAGER_ONLY, "eager"),
        ("auto", CPU, False, EAGER_ONLY, "eager"),
        ("auto", A10G, False, SDPA_PACKS, "varlen"),
        ("auto", A10G, True, SDPA_PACKS, "sdpa"),
        ("auto", A10G, True, VARLEN_PACKS, "varlen"),
        ("flash_attention_2", A10G, False, ALL, "varlen"),
        ("sdpa", A10G, True, ALL, "sdpa"),
        ("eager", A10G, True, ALL, "eager"),
    ],
)
def test_kernel_without_the_package_flash_attn(
    wanted: str, capability: tuple[int, int] | None, packed: bool, support: Support, expected: str
) -> None:
    chosen = kernels.choose(recipe(wanted), packed=packed, capability=capability, support=support)
    assert chosen == expected


@pytest.mark.parametrize(
    ("capability", "compute", "expected"),
    [
        (A10G, "bfloat16", "flash_attention_2"),
        (A10G, "float32", "sdpa"),
        (T4, "float16", "sdpa"),
        (CPU, "bfloat16", "sdpa"),
    ],
)
def test_package_is_preferred_where_it_runs(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int] | None,
    compute: str,
    expected: str,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    for support in (ALL, CAPPED):
        chosen = kernels.choose(
            recipe(compute=compute), packed=True, capability=capability, support=support
        )
        assert chosen == expected
    chosen = kernels.choose(
        recipe(compute=compute), packed=False, capability=capability, support=SDPA_ONLY
    )
    assert chosen == "sdpa"


@pytest.mark.parametrize(
    ("wanted", "capability", "support", "expected"),
    [
        ("auto", A10G, ALL, True),
        ("auto", A10G, UNPACKED, False),
        ("auto", A10G, VARLEN_PACKS, True),
        # The kernel of this card would let the rows see each other.
        ("auto", T4, VARLEN_PACKS, False),
        ("auto", CPU, VARLEN_PACKS, False),
        ("sdpa", A10G, VARLEN_PACKS, False),
        ("auto", T4, SDPA_PACKS, True),
        ("flash_attention_2", A10G, SDPA_PACKS, True),
    ],
)
def test_rows_are_packed_where_the_kernel_keeps_them_apart(
    wanted: str, capability: tuple[int, int] | None, support: Support, expected: bool
) -> None:
    found = kernels.packs(recipe(wanted), capability=capability, support=support)
    assert found is expected


def test_flash_attention_is_refused_for_a_base_that_it_does_not_support() -> None:
    wanted = recipe("flash_attention_2")
    kernels.check(wanted, capability=A10G, support=ALL)
    kernels.check(recipe(), capability=A10G, support=CAPPED)
    with pytest.raises(InvalidSpec, match="soft-capping or dropout of the attention"):
        kernels.check(wanted, capability=A10G, support=CAPPED)
    with pytest.raises(
        InvalidSpec,
        match=r"attnImplementation is flash_attention_2, which cannot train the base: it is "
        r"special\. Set attnImplementation to auto",
    ):
        kernels.check(wanted, capability=A10G, support=SDPA_ONLY)
    with pytest.raises(InvalidSpec, match=r"attnImplementation is sdpa, which .* it has sinks"):
        kernels.check(recipe("sdpa"), capability=A10G, support=EAGER_ONLY)
    kernels.check(recipe("eager"), capability=A10G, support=EAGER_ONLY)


def test_packing_is_refused_where_the_rows_would_see_each_other() -> None:
    always = recipe(packing="always")
    kernels.check(always, capability=A10G, support=ALL)
    kernels.check(always, capability=A10G, support=VARLEN_PACKS)
    kernels.check(recipe(), capability=A10G, support=UNPACKED)
    with pytest.raises(
        InvalidSpec, match=r"packing is always, but .*it has other layers. Set packing to auto"
    ):
        kernels.check(always, capability=A10G, support=UNPACKED)
    with pytest.raises(InvalidSpec, match="its masks ignore the rows"):
        kernels.check(always, capability=T4, support=VARLEN_PACKS)
