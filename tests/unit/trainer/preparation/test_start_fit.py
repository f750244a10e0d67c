"""Whether an adapter fits a recipe and its base: each difference names the field to change."""

from typing import Any

import pytest

from finetune_api.v1alpha1.training.lora import Lora
from finetune_trainer.checkpointing.safetensors_header import Header, TensorInfo
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.preparation import start_fit

SOURCE = "oci://registry.example.com/a:v1"
LORA = Lora(r=8, alpha=16, target_modules=["q_proj", "v_proj"])
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "bias": "none"}
COMMIT, OTHER = "a" * 40, "b" * 40


def header(*names: str, shape: tuple[int, ...] = (4, 4)) -> Header:
    tensors = {
        name: TensorInfo(name=name, dtype="F32", shape=shape, file="x", start=0, end=64)
        for name in names
    }
    return Header(tensors=tensors, metadata={})


def test_adapter_of_the_recipe_fits() -> None:
    start_fit.check_recipe(LORA, CONFIG, source=SOURCE)
    unset: dict[str, Any] = {
        "modules_to_save": None,
        "use_dora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    start_fit.check_recipe(LORA, CONFIG | unset, source=SOURCE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "LOHA"}, "is of the type LOHA: only LoRA can be continued"),
        ({"r": 16}, r"set training.lora.r to 16, or choose another adapter"),
        ({"lora_alpha": 8}, r"has alpha 8, but training.lora.alpha is 16: set training.lora.alpha"),
        ({"use_rslora": True}, "set training.lora.useRslora to true"),
        ({"use_dora": True}, "set training.lora.useDora to true"),
        ({"modules_to_save": ["lm_head"]}, r"training.lora.modulesToSave is \[\]: set"),
        ({"rank_pattern": {"q_proj": 4}}, "sets rank_pattern, which the trainer does not support"),
        ({"bias": "all"}, "sets bias, which"),
        ({"kasa_config": {"beta": 1}}, "sets kasa_config, which"),
        ({"monteclora_config": {"n": 1}}, "sets monteclora_config, which"),
        ({"r": None}, "has r none|has r None"),
    ],
)
def test_other_recipe_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidSpec, match=said) as refused:
        start_fit.check_recipe(LORA, CONFIG | change, source=SOURCE)
    assert str(refused.value).startswith(f"the adapter {SOURCE} in training.startFrom ")


@pytest.mark.parametrize("initialization", [None, True, False, "gaussian", "eva", "orthogonal"])
def test_initialization_that_leaves_the_base_as_it_is(initialization: Any) -> None:
    config = CONFIG | {"init_lora_weights": initialization}
    start_fit.check_recipe(LORA, config, source=SOURCE)


@pytest.mark.parametrize(
    "initialization",
    ["pissa", "pissa_niter_16", "olora", "OLoRA", "corda", "loftq", "lora_ga", "mica", ["x"]],
)
def test_initialization_that_may_change_the_base_is_refused(initialization: Any) -> None:
    config = CONFIG | {"init_lora_weights": initialization}
    with pytest.raises(InvalidSpec, match=r"has the init_lora_weights .*, which changes the base"):
        start_fit.check_recipe(LORA, config, source=SOURCE)


def test_tensors_have_the_rank() -> None:
    a, b = "base_model.model.x.q_proj.lora_A.weight", "base_model.model.x.q_proj.lora_B.weight"
    fits = header(a, shape=(8, 4)).tensors | header(b, shape=(4, 8)).tensors
    start_fit.check_tensors(LORA, Header(tensors=fits, metadata={}), source=SOURCE)
    for name, shape in ((a, (4, 8)), (b, (8, 4)), (a, (8,))):
        with pytest.raises(InvalidSpec, match="does not have the rank 8"):
            start_fit.check_tensors(LORA, header(name, shape=shape), source=SOURCE)


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.model.embed_tokens.weight",
        "base_model.model.lm_head.weight",
        "base_model.model.x.q_proj.lora_embedding_A",
        "x.q_proj.lora_A.weight",
    ],
)
def test_tensor_that_would_replace_one_of_the_base_is_refused(name: str) -> None:
    with pytest.raises(InvalidSpec, match=f"has the tensor {name}, which is neither a LoRA matrix"):
        start_fit.check_tensors(LORA, header(name, shape=(8, 4)), source=SOURCE)


def test_fully_trained_modules_of_the_recipe_are_accepted() -> None:
    lora = LORA.model_copy(update={"modules_to_save": ("lm_head",)})
    head, embedding = (f"base_model.model.{name}.weight" for name in ("lm_head", "embed_tokens"))
    start_fit.check_tensors(lora, header(head), source=SOURCE)
    with pytest.raises(InvalidSpec, match="neither a LoRA matrix"):
        start_fit.check_tensors(lora, header(head, embedding), source=SOURCE)


def check_base(base: str, config: dict[str, Any] | None = None, **facts: Any) -> tuple[str, ...]:
    return start_fit.check_base(base, COMMIT, config or {}, facts, source=SOURCE)


def test_published_adapter_proves_the_commit_of_its_base() -> None:
    assert check_base("hf://org/m", baseCommit=COMMIT, baseSource="hf://org/m") == ()
    # A copy of the same commit elsewhere is the same base.
    assert check_base("s3://bucket/m", baseCommit=COMMIT, baseSource="hf://org/m") == ()
    with pytest.raises(
        InvalidSpec, match=f"set model.source to hf://org/m, and model.revision to {OTHER}"
    ):
        check_base("hf://org/m", baseCommit=OTHER, baseSource="hf://org/m")


def test_foreign_adapter_matches_its_base_by_name_with_a_warning() -> None:
    named = {"base_model_name_or_path": "org/m"}
    (warning,) = check_base("hf://org/m", named)
    assert f"nothing proves that it was trained on commit {COMMIT}" in warning
    assert check_base("hf://org/m", named | {"revision": COMMIT}) == ()
    # A branch may have moved since.
    assert len(check_base("hf://org/m", named | {"revision": "main"})) == 1
    for other in (OTHER, OTHER.upper(), "b" * 64):
        with pytest.raises(InvalidSpec, match=f"was trained on commit {other.lower()} of hf:"):
            check_base("hf://org/m", named | {"revision": other})
    for copy in ("s3://bucket/m", "pvc://models/m", "oci://registry.example.com/M:v1"):
        assert len(check_base(copy, named | {"revision": COMMIT})) == 1
    for base, config in (
        ("hf://other/m", named),
        ("pvc://models/n", named),
        ("hf://org/m", {}),
        ("hf://org/m", {"base_model_name_or_path": None}),
    ):
        with pytest.raises(InvalidSpec, match=f"model.source is {base}: set model.source"):
            check_base(base, config)


BASE = header(
    "model.layers.0.q_proj.weight",
    "model.layers.0.v_proj.weight",
    "model.layers.0.o_proj.weight",
    "model.layers.0.router.weight",
    "model.embed_tokens.weight",
    "lm_head.weight",
)
LAYERS = [f"model.layers.0.{name}" for name in ("q_proj", "v_proj", "o_proj")]
"""Those that get an adapter with ``all-linear``."""
Q, V, OUT = (f"{name}.weight" for name in LAYERS)


def check_modules(lora: Lora, changed: set[str]) -> None:
    start_fit.check_modules(lora, changed, BASE, LAYERS, source=SOURCE)


def test_adapter_changes_the_modules_of_the_recipe() -> None:
    check_modules(LORA, {Q, V})
    head = LORA.model_copy(update={"modules_to_save": ("lm_head",)})
    check_modules(head, {Q, V, "lm_head.weight"})
    for changed, said in (
        ({Q}, r"does not change model.layers.0.v_proj.*\[q_proj\]"),
        ({Q, V, OUT}, r"changes .*o_proj.*\[o_proj, q_proj, v_proj\]"),
        ({Q, V, "lm_head.weight"}, r"changes lm_head.weight, unlike"),
        ({Q, V, "model.layers.9.q_proj.weight"}, "layers.9.q_proj.weight, which the base model"),
    ):
        with pytest.raises(InvalidSpec, match=said):
            check_modules(LORA, changed)


def test_all_linear_layers_are_those_that_the_trainer_adapts() -> None:
    everything = Lora(r=8, alpha=16, target_modules=["all-linear"])
    check_modules(everything, {Q, V, OUT})
    for changed, said in (
        ({Q}, r"does not change model.layers.0.o_proj.*\[q_proj\]"),
        (
            {Q, V, OUT, "model.layers.0.router.weight"},
            "changes model.layers.0.router.weight, unlike",
        ),
    ):
        with pytest.raises(InvalidSpec, match=said):
            check_modules(everything, changed)
