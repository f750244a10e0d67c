"""Every recipe field sets the corresponding argument of a library."""

import importlib.metadata
import itertools
import json
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from pydantic import BaseModel, Field
from tests.support.leaves import LEAVES
from tests.support.trainer import backend_probe, tiny
from tests.support.trainer.faults import (
    Ampere,
    OtherVersion,
    RecordsReads,
    log_adapter_dtypes,
    unsloth_in_float32,
    without_native_bfloat16,
    without_unsloth,
)
from tests.support.trainer.hub import Hub
from tests.support.trainer.workshop import Server, Workshop
from tests.support.variants import variants
from tests.trainer.conftest import MakeWorkshop
from trl.trainer.sft_config import SFTConfig

from finetune_api.contracts.job_config import JobConfig
from finetune_api.markers import Edit
from finetune_api.v1alpha1.training.advanced import Optimizer
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.attention.kernels import ALL
from finetune_trainer.checkpointing import manifest
from finetune_trainer.compatibility.backend_choice import with_backend
from finetune_trainer.data.token_store import Tokens
from finetune_trainer.devices import capabilities, cards
from finetune_trainer.devices.capabilities import Device
from finetune_trainer.errors import InvalidSpec, UnsupportedGpu
from finetune_trainer.runtime import progress
from finetune_trainer.training.backends import TrainRequest, library_arguments, loraplus, trl
from finetune_trainer.training.backends.sft import is_out_of_memory
from finetune_trainer.training.oom_fallback import MemorySettings

CPU = Device(name="cpu", cuda=False)
A10G = Device(name="NVIDIA A10G", cuda=True, capability=(8, 6))
T4 = Device(name="Tesla T4", cuda=True, capability=(7, 5))
TWO = MemorySettings(micro_batch=2)
PRECISIONS = ((True, "tf32"), (False, "ieee"))
"""``advanced.tf32``, and what multiplies float32 matrices then."""


def request(
    recipe: Training, *, memory: MemorySettings = TWO, packed: bool = False
) -> TrainRequest:
    nothing = np.zeros(0, dtype=np.int32)
    borders = np.zeros(1, dtype=np.int64)
    return TrainRequest(
        base=Path("base"),
        source="a/b",
        commit="c",
        recipe=recipe,
        packed=packed,
        start=None,
        attention=ALL,
        train=Tokens(input_ids=nothing, labels=nothing, rows=borders, sequences=borders),
        held_out=None,
        max_steps=10,
        memory=memory,
        scratch=Path("scratch"),
        checkpoint=None,
        publish_checkpoint=lambda scratch, step: None,
        checkpoint_of=lambda step: Path(),
    )


def recipe(**changes: Any) -> Training:
    job = tiny.job("hf://a/b", "hf://c/d", training=changes)
    return JobConfig.model_validate(job).training


def sft(field: str, value: Any, *, device: Device = CPU) -> SFTConfig:
    wanted = recipe(**nested(field, value))
    return SFTConfig(**library_arguments.sft_arguments(request(wanted), device))


def nested(field: str, value: Any) -> dict[str, Any]:
    head, _, rest = field.partition(".")
    return {head: nested(rest, value) if rest else value}


IN_SFT_CONFIG = [
    ("learningRate", 0.25, "learning_rate", 0.25),
    ("effectiveBatchSize", 12, "gradient_accumulation_steps", 6),
    ("sequenceLength", 77, "max_length", 77),
    ("seed", 9, "seed", 9),
    ("advanced.gradientCheckpointing", True, "gradient_checkpointing", True),
    ("advanced.gradientCheckpointing", False, "gradient_checkpointing", False),
    ("advanced.padToSequenceLength", True, "pad_to_multiple_of", 128),
    ("advanced.optimizer", "lion_32bit", "optim", "lion_32bit"),
    ("advanced.lrSchedulerType", "inverse_sqrt", "lr_scheduler_type", "inverse_sqrt"),
    ("advanced.warmupRatio", 0.25, "warmup_steps", 0.25),
    ("advanced.warmupSteps", 7, "warmup_steps", 7),
    ("advanced.minLearningRateRatio", 0.1, "lr_scheduler_kwargs", {"min_lr_rate": 0.1}),
    ("advanced.minLearningRateRatio", 0.1, "lr_scheduler_type", "cosine_with_min_lr"),
    ("advanced.adamBeta1", 0.5, "adam_beta1", 0.5),
    ("advanced.adamBeta2", 0.95, "adam_beta2", 0.95),
    ("advanced.adamEpsilon", 1e-5, "adam_epsilon", 1e-5),
    ("advanced.weightDecay", 0.125, "weight_decay", 0.125),
    ("advanced.maxGradNorm", 0.75, "max_grad_norm", 0.75),
    ("advanced.loggingSteps", 3, "logging_steps", 3),
    ("advanced.quantization.computeDtype", "float32", "bf16", False),
    ("advanced.quantization.computeDtype", "bfloat16", "bf16", True),
]


@pytest.mark.parametrize(("field", "value", "name", "expected"), IN_SFT_CONFIG)
def test_recipe_as_sft_arguments(field: str, value: Any, name: str, expected: Any) -> None:
    assert getattr(sft(field, value), name) == expected


IN_LORA_CONFIG = [
    ("lora.r", 5, "r", 5),
    ("lora.alpha", 7, "lora_alpha", 7),
    ("lora.dropout", 0.5, "lora_dropout", 0.5),
    ("lora.targetModules", ["q_proj"], "target_modules", {"q_proj"}),
    ("lora.targetModules", ["all-linear"], "target_modules", "all-linear"),
    ("lora.modulesToSave", ["lm_head"], "modules_to_save", ["lm_head"]),
    ("lora.modulesToSave", ["embed_tokens"], "modules_to_save", ["embed_tokens"]),
    ("lora.useRslora", True, "use_rslora", True),
    ("lora.useDora", True, "use_dora", True),
]


@pytest.mark.parametrize(("field", "value", "name", "expected"), IN_LORA_CONFIG)
def test_recipe_as_lora_config(field: str, value: Any, name: str, expected: Any) -> None:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**tiny.SHAPE))
    found = library_arguments.lora_config(recipe(**nested(field, value)), model)
    assert isinstance(found, peft.LoraConfig)
    assert getattr(found, name) == expected


IN_QUANTIZATION = [
    ("advanced.quantization.type", "fp4", "bnb_4bit_quant_type", "fp4"),
    ("advanced.quantization.doubleQuant", False, "bnb_4bit_use_double_quant", False),
    (
        "advanced.quantization.computeDtype",
        "float32",
        "bnb_4bit_compute_dtype",
        torch.float32,
    ),
]


@pytest.mark.parametrize(("field", "value", "name", "expected"), IN_QUANTIZATION)
def test_recipe_as_quantization_config(field: str, value: Any, name: str, expected: Any) -> None:
    found = library_arguments.quantization_config(recipe(**nested(field, value)), "llama")
    assert getattr(found, name) == expected
    assert found.load_in_4bit


ELSEWHERE = {
    "startFrom": "test_training_begins_where_the_other_ended",
    "epochs": "test_number_of_steps, test_packing_auto_packs_from_200_steps",
    "maxSteps": "test_number_of_steps, test_each_stage_reports_its_artifacts",
    "packing": "test_packing_auto_packs_from_200_steps",
    "trainOn": "test_train_on_setting_reaches_the_labels",
    "deterministic": "test_deterministic_recipe_uses_deterministic_algorithms",
    "advanced.earlyStoppingPatience": "test_early_stop_publishes_the_adapter_with_the_lowest_loss",
    "advanced.overlong": "test_overlong_rows_are_truncated_if_set",
    "advanced.backend": "test_training_uses_the_backend_of_the_recipe",
    "advanced.microBatchSize": "test_micro_batch_reaches_the_trainer",
    "advanced.attnImplementation": "test_explicit_attention_kernel_is_used",
    "advanced.ligerFusedLinearCrossEntropy": (
        "test_step_of_each_family_is_that_of_the_loss_of_trl, test_auto_selects_trl_for_liger"
    ),
    "advanced.ligerLayers": "test_layers_of_each_family_are_those_of_transformers",
    "advanced.neftuneNoiseAlpha": "test_neftune_adds_its_noise_once_and_in_training_only",
    "advanced.loraplusLrRatio": "test_loraplus_multiplies_the_step_of_b_matrices_only",
    "advanced.tf32": "test_settings_that_depend_on_the_gpu, test_tf32_is_used_in_training_only",
    "advanced.evalSteps": "test_eval_save_and_logging_steps_reach_the_run",
    "advanced.saveSteps": "test_eval_save_and_logging_steps_reach_the_run",
}
"""Fields without a library argument, and the tests of their effect."""


def leaves(model: type[BaseModel], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, info in model.model_fields.items():
        path = f"{prefix}{info.alias or name}"
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= leaves(inner, f"{path}.")
        else:
            found.add(path)
    return found


def test_every_recipe_field_is_covered() -> None:
    arguments = {row[0] for row in [*IN_SFT_CONFIG, *IN_LORA_CONFIG, *IN_QUANTIZATION]}
    assert leaves(Training) == arguments | ELSEWHERE.keys()
    require_tests(ELSEWHERE)


def test_every_recipe_field_is_read_by_a_backend(make: MakeWorkshop) -> None:
    workshop = make(
        dataset={"validationFraction": 0.2},
        training={"maxSteps": None, "epochs": 0.2, "advanced": {"loggingSteps": 1}},
    )
    watch = RecordsReads(path=workshop.folder / "reads")
    workshop.with_fault(watch).succeed("prepare")
    workshop.with_fault(watch).succeed("train")
    read = set(watch.path.read_text().split())
    assert leaves(Training) <= read, leaves(Training) - read


def test_only_reads_of_a_field_by_code_that_trains_count(tmp_path: Path) -> None:
    """A field that nothing reads, or only the estimate, is therefore found."""

    class Group(BaseModel):
        inner: int = Field(default=1, alias="innerField")
        unread: int = 1

    class Recipe(BaseModel):
        group: Group = Group()
        trained: int = 1
        estimated: int = 1
        unread: int = 1

    watch = RecordsReads(path=tmp_path / "reads")
    watch.watch(Recipe)
    found = Recipe()
    for module, expression in (
        ("finetune_trainer.training.backends.sft", "(found.trained, found.group.inner)"),
        ("finetune_trainer.estimate.memory", "found.estimated"),
        (__name__, "found.unread"),
    ):
        eval(expression, {"__name__": module, "found": found})
    read = set(watch.path.read_text().split())
    assert leaves(Recipe) - read == {"estimated", "unread", "group.unread"}


def require_tests(of_fields: dict[str, str]) -> None:
    here = {path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py")}
    for tests in of_fields.values():
        for test in tests.split(", "):
            assert any(f"def {test}(" in text for text in here), test


OF_MODEL_AND_ROWS = {
    "source": "test_prepare_reads_base_and_rows_from_a_claim, "
    "test_prepare_reads_base_and_rows_from_s3",
    "revision": "test_revision_of_the_spec_is_pinned",
    "sha256": "test_prepare_reads_base_and_rows_from_a_web_server",
    "s3.endpoint": "test_prepare_reads_base_and_rows_from_s3",
    "format": "test_rows_of_every_format_with_default_and_named_columns",
    "config": "test_one_of_several_configurations_is_read",
    "split": "test_evaluation_rows_are_tokenized_and_all_dataset_rows_are_trained_on",
    "maxSamples": "test_max_samples_takes_the_first_rows",
    **{
        f"columns.{name}": "test_rows_of_every_format_with_default_and_named_columns"
        for name in ("instruction", "output", "messages", "prompt", "completion")
    },
    "columns.tools": "test_tools_as_objects_and_as_text_are_equal",
    **{
        f"mapping.{name}": "test_keys_and_roles_can_be_mapped"
        for name in ("role", "roles", "content")
    },
    "columns.input": "test_alpaca_input_follows_the_instruction",
    "columns.text": "test_text_is_tokenized_unchanged",
    "validationFraction": "test_held_out_rows_depend_on_content_only",
    "promptTemplate": "test_template_is_selected_by_the_spec",
    "promptFormat": "test_prompt_format_is_rendered_verbatim",
    "chatTemplate": "test_template_is_selected_by_the_spec",
    "duplicates": "test_duplicates_are_counted_and_dropped_if_set",
}
"""Fields of model, dataset and evaluation.dataset, and the tests of their effect."""


def test_every_model_and_dataset_field_is_covered() -> None:
    groups = ("model.", "dataset.", "evaluation.dataset.")
    trained = [str(leaf) for leaf in LEAVES if leaf.edit is Edit.RETRAIN]
    found = {
        path.removeprefix(group) for path in trained for group in groups if path.startswith(group)
    }
    assert found == OF_MODEL_AND_ROWS.keys()
    require_tests(OF_MODEL_AND_ROWS)


@pytest.mark.parametrize("name", Optimizer.__args__)  # type: ignore[attr-defined]
def test_every_optimizer_can_take_a_step(name: str) -> None:
    arguments = sft("advanced.optimizer", name)
    layer = torch.nn.Linear(64, 64)
    trainer = transformers.Trainer(model=layer, args=arguments)
    optimizer = trainer.create_optimizer()
    before = layer.weight.detach().clone()
    layer(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    assert torch.isfinite(layer.weight).all()
    assert not torch.equal(layer.weight, before)


def test_loraplus_multiplies_the_step_of_b_matrices_only() -> None:
    names = ("q.lora_A.default.weight", "q.lora_B.default.weight", "norm.bias")
    trained = [(name, torch.nn.Parameter(torch.ones(8))) for name in names]
    groups = [
        {"params": [each for _, each in trained[:2]], "weight_decay": 0.25},
        {"params": [trained[2][1]], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    loraplus.set_rates(optimizer, trained, ratio=16)
    for _, each in trained:
        each.grad = torch.ones_like(each)
    optimizer.step()
    # The first step of Adam is the learning rate, and weight decay multiplies it, too.
    expected = [1 - 1e-3 * 1.25, 1 - 16e-3 * 1.25, 1 - 1e-3]
    for (name, each), value in zip(trained, expected, strict=True):
        assert each.detach().numpy() == pytest.approx(value, rel=1e-6), name


def test_micro_batch_reaches_the_trainer(done: Workshop, make: MakeWorkshop) -> None:
    arguments = library_arguments.sft_arguments(
        request(recipe(), memory=MemorySettings(micro_batch=4)), CPU
    )
    assert arguments["per_device_train_batch_size"] == 4
    assert arguments["gradient_accumulation_steps"] == 1
    workshop = make(training={"maxSteps": 1, "advanced": {"microBatchSize": 4}})
    workshop.prepare_and_train()
    facts = [
        json.loads((each.work / "adapter/manifest.json").read_text())["facts"]["microBatch"]
        for each in (workshop, done)
    ]
    assert facts == [4, 2]


@pytest.mark.parametrize("backend", variants(["trl", "unsloth"], kept=["trl"]))
def test_deterministic_recipe_uses_deterministic_algorithms(
    make: MakeWorkshop, backend: str
) -> None:
    workshop = make(
        training={"maxSteps": 1, "deterministic": True, "advanced": {"backend": backend}}
    )
    assert "deterministic algorithms only" in workshop.prepare_and_train().log


@pytest.mark.parametrize(
    ("backend", "compute"),
    variants(
        itertools.product(["trl", "unsloth"], ["bfloat16", "float32"]),
        kept=[("trl", "bfloat16"), ("trl", "float32"), ("unsloth", "bfloat16")],
    ),
)
def test_adapter_uses_the_compute_dtype_of_the_recipe(
    make: MakeWorkshop, backend: str, compute: str
) -> None:
    """On a CPU, PEFT would convert the input of each layer to float32."""
    advanced = {"backend": backend, "quantization": {"computeDtype": compute}}
    workshop = make(training={"maxSteps": 1, "advanced": advanced})
    workshop.with_fault(unsloth_in_float32).succeed("prepare")
    log = workshop.with_fault(log_adapter_dtypes).succeed("train").log
    assert set(re.findall(r"an adapter is given torch\.(\w+)", log)) == {compute}


def test_arguments_that_unsloth_changes_on_a_cpu_are_restored(make: MakeWorkshop) -> None:
    workshop = make(
        training={"maxSteps": 2, "packing": "always", "advanced": {"backend": "unsloth"}}
    )
    workshop.succeed("prepare")
    log = workshop.with_fault(without_native_bfloat16).succeed("train").log
    assert "restoring optim to paged_adamw_8bit" in log
    assert "restoring packing to True" in log


def test_image_without_unsloth_is_refused_in_prepare(
    make: MakeWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop = make(training={"advanced": {"backend": "unsloth"}})
    ended = workshop.with_fault(without_unsloth).run("prepare")
    assert (ended.code, ended.result["reason"]) == (64, "InvalidSpec")
    assert "the trainer image does not contain Unsloth: set backend to auto" in ended.message
    assert workshop.published() == []


def test_auto_trains_on_trl_in_an_image_without_unsloth(make: MakeWorkshop) -> None:
    workshop = make(training={"maxSteps": 2, "advanced": {"backend": "auto"}})
    prepared = workshop.with_fault(without_unsloth).succeed("prepare")
    version = importlib.metadata.version("trl")
    assert prepared.result["artifacts"]["backend"] == {
        "name": "trl",
        "version": version,
        "reason": "the trainer image does not contain Unsloth",
        "automatic": "trl",
    }
    assert "training uses trl (the trainer image does not contain Unsloth)" in prepared.message
    # An image with Unsloth does not change the backend of a prepared job.
    again = workshop.succeed("prepare")
    assert again.result["artifacts"]["backend"] == prepared.result["artifacts"]["backend"]
    workshop.succeed("train")
    facts = manifest.read(workshop.work / "adapter").facts
    assert facts["backend"] == "trl"
    assert "unsloth" not in facts["versions"]
    assert "backend: trl\n" in (workshop.work / "adapter/README.md").read_text()


def test_auto_trains_on_unsloth_in_an_image_with_unsloth(make: MakeWorkshop) -> None:
    workshop = make(training={"maxSteps": 2, "advanced": {"backend": "auto"}})
    prepared = workshop.succeed("prepare")
    chosen = prepared.result["artifacts"]["backend"]
    assert (chosen["name"], chosen["automatic"]) == ("unsloth", "unsloth")
    workshop.succeed("train")
    facts = manifest.read(workshop.work / "adapter").facts
    assert facts["backend"] == "unsloth"
    assert facts["versions"]["unsloth"] == chosen["version"]


def test_training_does_not_replace_a_published_backend_that_its_image_lacks(
    make: MakeWorkshop,
) -> None:
    workshop = make(training={"maxSteps": 2, "advanced": {"backend": "auto"}})
    workshop.succeed("prepare")
    ended = workshop.with_fault(without_unsloth).run("train")
    assert (ended.code, ended.result["reason"]) == (64, "InvalidSpec")
    assert "the prepare stage selected the backend unsloth" in ended.message


def test_training_on_another_version_of_the_backend_warns(make: MakeWorkshop) -> None:
    workshop = make(training={"maxSteps": 2})
    workshop.with_fault(OtherVersion("trl", "1.0.0")).succeed("prepare")
    version = importlib.metadata.version("trl")
    trained = workshop.succeed("train")
    assert trained.result["warnings"][-1] == (
        "the prepare stage selected trl 1.0.0, but this image contains version "
        f"{version}, so training uses version {version}"
    )


def test_dataset_digest_covers_the_published_backend(make: MakeWorkshop) -> None:
    workshop = make(training={"maxSteps": 2, "advanced": {"backend": "auto"}})
    workshop.with_fault(without_unsloth).succeed("prepare")
    chosen = workshop.work / "dataset" / "backend.json"
    chosen.write_text(chosen.read_text().replace("Unsloth", "unsloth"))
    ended = workshop.run("train")
    assert (ended.code, ended.result["reason"]) == (78, "ResumeRefused")


def test_training_uses_the_backend_of_the_recipe(make: MakeWorkshop) -> None:
    from finetune_trainer.training import backends

    workshop = make(training={"maxSteps": 2, "advanced": {"backend": "unsloth"}})
    workshop.prepare_and_train()
    facts = manifest.read(workshop.work / "adapter").facts
    assert facts["backend"] == "unsloth"
    assert facts["versions"]["unsloth"].startswith("2026.")
    assert type(backends.load(recipe(advanced={"backend": "trl"}))) is trl.TrlBackend
    with pytest.raises(InvalidSpec, match="this trainer image does not contain it"):
        backends.load(with_backend(recipe(), "other"))


@pytest.mark.parametrize("train_on", ["responses", "all"])
def test_train_on_setting_reaches_the_labels(make: MakeWorkshop, train_on: str) -> None:
    workshop = make(training={"trainOn": train_on})
    workshop.succeed("prepare")
    facts = json.loads((workshop.work / "dataset/manifest.json").read_text())["facts"]
    assert (facts["trainedTokens"] == facts["trainTokens"]) == (train_on == "all")


@pytest.mark.parametrize(
    ("advanced", "card", "said"),
    [
        ({}, "NVIDIA-A10G", None),
        ({}, None, None),
        ({}, "Tesla-T4", "Tesla-T4 does not support bfloat16"),
        ({}, "Tesla-V100-SXM2-16GB", r"capability 7\.0, but this image needs 7\.5 \(Turing"),
        ({"quantization": {"computeDtype": "float16"}}, "Tesla-T4", None),
        ({"attnImplementation": "flash_attention_2"}, "NVIDIA-A10G", None),
        ({"attnImplementation": "flash_attention_2"}, None, None),
        (
            {
                "attnImplementation": "flash_attention_2",
                "quantization": {"computeDtype": "float16"},
            },
            "Tesla-T4",
            "flash_attention_2, which Tesla-T4 does not support",
        ),
    ],
)
def test_recipe_that_the_card_cannot_compute_is_refused_in_prepare(
    advanced: dict[str, Any], card: str | None, said: str | None
) -> None:
    found = cards.find(card) if card else None
    assert card is None or found is not None
    if said is None:
        capabilities.check_ahead(recipe(advanced=advanced), found)
        return
    with pytest.raises((InvalidSpec, UnsupportedGpu), match=said):
        capabilities.check_ahead(recipe(advanced=advanced), found)


def test_flash_attention_is_refused_in_prepare_for_a_base_with_attention_dropout(
    make: MakeWorkshop, hub: Hub, tmp_path: Path
) -> None:
    config = tiny.model(tmp_path / "dropout") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"attention_dropout": 0.1}))
    workshop = make(
        model={"source": hub.add("model", "demo/dropout", config.parent)},
        training={"advanced": {"attnImplementation": "flash_attention_2"}},
    )
    ended = workshop.run("prepare")
    assert (ended.code, ended.result["reason"]) == (64, "InvalidSpec")
    assert "or use an image with flash-attn" in ended.message
    assert workshop.published() == []


@pytest.mark.parametrize(
    ("module", "chosen", "kernel"),
    [
        ("unsloth.models.llama", "xformers", "xformers"),
        ("unsloth.models.llama", "sdpa", "sdpa"),
        ("unsloth.models.llama", "flash_varlen", "flash_attention_2"),
        ("transformers.models.llama", "xformers", "eager"),
    ],
)
def test_unsloth_attention_reports_its_selected_kernel(
    servers: dict[str, Server], module: str, chosen: str, kernel: str
) -> None:
    assert (
        backend_probe.ask(servers["unsloth"], backend_probe.unsloth_kernel, module, chosen)
        == kernel
    )


def test_deviating_attention_kernel_is_refused(servers: dict[str, Server]) -> None:
    said = backend_probe.ask(servers["trl"], backend_probe.kernel_refusal, "sdpa", "xformers")
    assert "attnImplementation is sdpa, but the unsloth backend would use xformers" in said
    assert backend_probe.ask(servers["trl"], backend_probe.kernel_refusal, "auto", "xformers") == ""


@pytest.mark.parametrize(
    ("error", "full"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB", False),
        ("CUDA error: out of memory", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_out_of_memory_is_recognized_in_every_form(error: str, full: bool) -> None:
    assert is_out_of_memory(RuntimeError(error)) is full
    assert is_out_of_memory(torch.OutOfMemoryError(error))


def test_explicit_attention_kernel_is_used(make: MakeWorkshop) -> None:
    workshop = make(
        training={"maxSteps": 1, "packing": "never", "advanced": {"attnImplementation": "eager"}}
    )
    ended = workshop.prepare_and_train()
    assert "on cpu with the attention kernel eager" in ended.log
    assert ended.result["artifacts"]["attention"] == "eager"
    facts = json.loads((workshop.work / "adapter/manifest.json").read_text())["facts"]
    assert facts["attention"] == "eager"


def test_settings_that_depend_on_the_gpu() -> None:
    half = recipe(advanced={"quantization": {"computeDtype": "float16"}})
    assert library_arguments.sft_arguments(request(half), T4)["fp16"] is True
    assert library_arguments.sft_arguments(request(half), CPU)["fp16"] is False
    assert capabilities.uses_tf32(recipe(), A10G)
    assert not capabilities.uses_tf32(recipe(advanced={"tf32": False}), A10G)
    assert not capabilities.uses_tf32(recipe(), T4)
    assert library_arguments.sft_arguments(request(recipe()), A10G)["use_cpu"] is False
    with pytest.raises(
        InvalidSpec, match=r"Tesla T4 does not support bfloat16: set training\.advanced"
    ):
        capabilities.check(recipe(), T4)
    flash = recipe(advanced={"attnImplementation": "flash_attention_2"})
    capabilities.check(flash, A10G)
    with pytest.raises(InvalidSpec, match="is flash_attention_2, which cpu does not support"):
        capabilities.check(flash, CPU)


@pytest.mark.parametrize("backend", ["trl", "unsloth"])
def test_unusable_gpu_fails_instead_of_training_on_the_cpu(
    make: MakeWorkshop, backend: str
) -> None:
    workshop = make(training={"advanced": {"backend": backend}})
    workshop.succeed("prepare")
    # With CDI, this NVIDIA variable says that a pod has no GPU even if it has one.
    ended = workshop.run("train", FINETUNE_REQUIRE_GPU="true", NVIDIA_VISIBLE_DEVICES="void")
    assert (ended.code, ended.result["reason"]) == (75, "Transient")
    assert "CUDA cannot use the GPU of this pod" in ended.message
    assert "CUDA reports: " in ended.message
    assert "loading the base model" not in ended.log


@pytest.mark.parametrize(
    ("backend", "on", "multiplied"),
    variants(
        [(name, on, kind) for name in ("trl", "unsloth") for on, kind in PRECISIONS],
        kept=[("trl", True, "tf32"), ("trl", False, "ieee"), ("unsloth", True, "tf32")],
    ),
)
def test_tf32_is_used_in_training_only(
    make: MakeWorkshop, backend: str, on: bool, multiplied: str
) -> None:
    workshop = make(training={"maxSteps": 1, "advanced": {"backend": backend, "tf32": on}})
    workshop.succeed("prepare")
    path = workshop.folder / "precision"
    ended = workshop.with_fault(Ampere(path=path)).run("train")
    assert ended.code == 0, ended.log
    assert path.read_text() == multiplied
    assert "could not record the reference" not in ended.log
    assert "reference" in workshop.published()


@pytest.mark.parametrize("backend", variants(["trl", "unsloth"], kept=["trl"]))
def test_eval_save_and_logging_steps_reach_the_run(make: MakeWorkshop, backend: str) -> None:
    cadence = {"evalSteps": 2, "saveSteps": 3, "loggingSteps": 4}
    workshop = make(
        dataset={"validationFraction": 0.25},
        training={"maxSteps": 7, "advanced": {"backend": backend, **cadence}},
    )
    log = workshop.prepare_and_train().log
    evaluated = [step for step in range(1, 8) if f"step {step}/7 loss on held-out" in log]
    assert evaluated == [2, 4, 6, 7]
    kept = sorted(path.name for path in (workshop.work / "checkpoints").iterdir())
    assert kept == ["step-6", "step-7"]
    assert "step 5/7 loss" not in log


def test_packed_dora_trains_with_a_float32_adapter(make: MakeWorkshop) -> None:
    workshop = make(
        training={
            "maxSteps": 3,
            "packing": "always",
            "lora": {"useDora": True, "useRslora": True},
            "advanced": {"gradientCheckpointing": True, "padToSequenceLength": True},
        }
    )
    ended = workshop.prepare_and_train()
    assert ended.result["loss"] < 6
    from safetensors.torch import load_file

    weights = load_file(workshop.work / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    # If the adapter were rounded to bfloat16 like in TRL, almost all lower 16 bits would be zero.
    b = weights["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"]
    assert (b != b.bfloat16().float()).any()


def test_training_metrics_are_served(make: MakeWorkshop, unused_port: int) -> None:
    workshop = make(
        dataset={"validationFraction": 0.2},
        training={"maxSteps": 400, "advanced": {"saveSteps": 2, "evalSteps": 2}},
    )
    workshop.succeed("prepare")
    running = workshop.start(
        "train", FINETUNE_METRICS_PORT=str(unused_port), FINETUNE_POD_UID="uid-1"
    )
    seen: list[dict[str, float]] = []

    def scraped() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{unused_port}/metrics") as answer:
                text = answer.read().decode()
        except OSError:
            return False
        lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
        seen.append({name: float(value) for name, value in lines})
        return "finetune_last_checkpoint_step" in seen[-1] and "finetune_eval_loss" in seen[-1]

    running.until(scraped)
    before = time.monotonic()
    assert running.process.pid is not None
    running.process.terminate()
    assert running.wait().code == 143
    assert time.monotonic() - before < 20
    first, last = seen[0], seen[-1]
    assert first['finetune_stage_info{stage="train"}'] == 1
    assert first['finetune_pod_info{uid="uid-1"}'] == 1
    assert "finetune_train_loss" not in first, "a figure must be absent until it is known"
    assert last["finetune_max_steps"] == 400
    assert 0 < last["finetune_progress_ratio"] == last["finetune_global_step"] / 400 < 1
    for name in ("train_loss", "eval_loss", "learning_rate", "grad_norm", "epoch", "eta_seconds"):
        assert last[f"finetune_{name}"] > 0
    assert last["finetune_tokens_per_second"] > 0
    assert last["finetune_gpu_seconds_total"] > 0
    names = {f"{name}{'_total' * (name in progress.COUNTERS)}" for name in progress.HELP}
    unknown = {name for name in names if f"finetune_{name}" not in last}
    assert unknown == {
        "download_bytes",
        "download_size_bytes",
        "upload_bytes",
        "upload_size_bytes",
        "gpu_memory_peak_bytes",
    }
    assert last["finetune_step_seconds"] > 0
    assert last["finetune_data_wait_seconds_total"] > 0
    assert 0 <= last["finetune_checkpoint_age_seconds"] < 60
