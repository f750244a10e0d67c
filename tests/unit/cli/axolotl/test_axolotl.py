"""The conversion of Axolotl configurations to FineTuneJobs, and its warnings."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.trainer import shapes

from finetune_api.defaulting import Resolved, builtin_defaults, resolve
from finetune_api.v1alpha1.lora import ALL_LINEAR
from finetune_cli import job_file
from finetune_cli.__main__ import main
from finetune_cli.import_axolotl import convert
from finetune_trainer.errors import InvalidSpec

ARTICLE = Path(__file__).parent / "axolotl-article.yml"
IMPORTED = Path(__file__).parents[3] / "integration/manifests/valid/imported-from-axolotl.yaml"
"""The conversion of the article; the integration tests apply it to a real API server."""
MINIMAL: dict[str, Any] = {
    "base_model": "org/model",
    "adapter": "qlora",
    "load_in_4bit": True,
    "gradient_checkpointing": True,
    "datasets": [{"path": "org/rows", "type": "chat_template"}],
}


def article() -> dict[str, Any]:
    return job_file.load(ARTICLE)[0]


def imported(**changes: Any) -> tuple[Resolved, list[str]]:
    config = {key: value for key, value in (MINIMAL | changes).items() if value is not None}
    manifest, warnings = convert(config)
    return resolve(manifest["spec"], builtin_defaults()), warnings


def only(warnings: list[str], key: str) -> str:
    (found,) = [each for each in warnings if each.startswith(key)]
    return found


def test_article_is_converted_field_by_field() -> None:
    manifest, _ = convert(article())
    assert manifest["metadata"]["name"] == "llama3-8b-qlora"
    spec = resolve(manifest["spec"], builtin_defaults()).spec
    assert spec.model.source == "hf://meta-llama/Meta-Llama-3-8B-Instruct"
    assert (spec.dataset.source, spec.dataset.format) == ("hf://tatsu-lab/alpaca", "alpaca")
    assert spec.dataset.prompt_template == "alpaca"
    assert spec.dataset.validation_fraction == 0.05
    recipe = spec.training
    assert (recipe.epochs, recipe.learning_rate) == (3, 2e-4)
    assert (recipe.effective_batch_size, recipe.advanced.micro_batch_size) == (8, 2)
    assert (recipe.sequence_length, recipe.packing) == (8192, "always")
    assert (recipe.lora.r, recipe.lora.alpha, recipe.lora.dropout) == (16, 32, 0.05)
    assert recipe.lora.target_modules == ALL_LINEAR
    assert recipe.advanced.gradient_checkpointing is False
    assert recipe.advanced.pad_to_sequence_length is True
    assert recipe.advanced.optimizer == "paged_adamw_32bit"
    assert recipe.advanced.attn_implementation == "auto"
    assert (recipe.advanced.eval_steps, recipe.advanced.save_steps) == (50, 100)
    assert (recipe.advanced.logging_steps, recipe.seed) == (10, 42)


def test_manifest_of_the_integration_tests_is_the_converted_article() -> None:
    assert job_file.load(IMPORTED) == [convert(article())[0]]


def test_article_gets_five_warnings() -> None:
    _, warnings = convert(article())
    assert "1/10 of the rows (10 %)" in only(warnings, "datasets[0].shards: 10")
    assert "Axolotl's default is off" in only(warnings, "gradient_checkpointing")
    assert "Alpaca prompt" in only(warnings, "datasets[0].type: alpaca")
    assert "two thirds more activation memory" in only(warnings, "lora_dropout: 0.05")
    assert "is not copied: the job uses attnImplementation: auto" in only(
        warnings, "flash_attention: true"
    )
    assert len(warnings) == 5


def test_estimate_refuses_the_article_on_an_a10g(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import-axolotl", str(ARTICLE)]) == 0
    said = capsys.readouterr()
    assert said.err.count("warning: ") == 5
    (tmp_path / "finetune.yaml").write_text(said.out)
    (tmp_path / "config.json").write_text(json.dumps(shapes.LLAMA3_8B))
    file = str(tmp_path / "finetune.yaml")
    assert main(["estimate", "-f", file, "--model", str(tmp_path)]) == 82
    refusal = capsys.readouterr().err
    assert "NVIDIA-A10G has 22.49 GiB" in refusal
    assert "gradientCheckpointing: true" in refusal
    assert refusal.count("(1)") == refusal.count("(2)") == refusal.count("(3)") == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"load_in_8bit": True, "load_in_4bit": None}, "8-bit loading is not supported"),
        ({"deepspeed": "zero3.json"}, "DeepSpeed is not supported"),
        ({"fsdp": ["full_shard"]}, "FSDP is not supported"),
        ({"fsdp_config": {"fsdp_version": 2}}, "FSDP is not supported"),
        ({"load_in_4bit": None, "adapter": "lora"}, "the job uses 4 bits (NF4)"),
        ({"trust_remote_code": True}, "own Python code are rejected"),
        ({"wandb_project": "x"}, "status and the metrics port report the loss"),
        ({"gradient_checkpointing": None}, "Axolotl's default is off"),
        ({"warmup_steps": 10}, "the built-in warmupRatio"),
        ({"val_set_size": 200}, "validationFraction"),
        ({"neftune_noise_alpha": 5}, "neftune_noise_alpha: 5: is ignored"),
        ({"optimizer": "muon"}, "the job uses adamw_torch_fused"),
        ({"lora_modules_to_save": ["norm", "lm_head"]}, "can be trained in full: norm is removed"),
        ({"unfrozen_parameters": ["^lm_head.weight$"]}, "only modulesToSave are trained"),
        (
            {"datasets": [{"path": "org/rows", "type": "chat_template", "name": "main"}]},
            "datasets[0].name: main: is ignored",
        ),
        ({"datasets": [{"path": "./rows.jsonl", "type": "completion"}]}, "ConfigMap"),
        (
            {"datasets": [{"path": "org/a", "type": "alpaca"}] * 2},
            "has 2 datasets, and the job uses only the first",
        ),
        ({"attn_implementation": "flex_attention"}, "attn_implementation: flex_attention"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end: true: is ignored"),
        ({"overrides_of_model_config": {"rope_theta": 1}}, "overrides_of_model_config: is ignored"),
        ({"early_stopping_patience": 3, "val_set_size": 0}, "needs held-out rows"),
        ({"liger_layer_norm": True}, "liger_layer_norm: true: is ignored: the backend chooses"),
        ({"chunked_cross_entropy": True}, "chunked_cross_entropy: true: is ignored: the backend"),
        (
            {"datasets": [{"path": "org/rows", "type": "alpaca_chat.load_qa"}]},
            "datasets[0].type: alpaca_chat.load_qa: is not supported: the job uses alpaca",
        ),
        (
            {"datasets": [{"path": "org/rows", "type": "oasst"}]},
            "datasets[0].type: oasst: is not supported: the job sets format: messages",
        ),
        ({"lora_target_modules": ["q_proj", "lm_head"]}, "lm_head is removed"),
        (
            {"warmup_ratio": 0.7},
            "warmup_ratio: 0.7: is above the maximum, half of the run: the job uses 0.5",
        ),
    ],
)
def test_lost_settings_get_a_warning(changes: dict[str, Any], words: str) -> None:
    _, warnings = imported(**changes)
    assert [each for each in warnings if words in each], warnings


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"adapter": None}, "trains all weights"),
        ({"rl": "dpo"}, "rl: dpo"),
        ({"reward_model": True}, "reward model"),
        ({"base_model": "./local"}, "base_model"),
        ({"datasets": []}, "datasets"),
    ],
)
def test_other_kinds_of_training_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        imported(**changes)


@pytest.mark.parametrize(
    ("changes", "path", "value"),
    [
        ({"max_steps": 60, "num_epochs": 3}, "training.max_steps", 60),
        ({"max_steps": 60, "warmup_steps": 6}, "training.advanced.warmup_ratio", 0.1),
        ({"lora_target_linear": True}, "training.lora.target_modules", ["all-linear"]),
        (
            {"lora_modules_to_save": ["lm_head", "embed_tokens"]},
            "training.lora.modules_to_save",
            ["embed_tokens", "lm_head"],
        ),
        ({"lora_modules_to_save": ["norm"]}, "training.lora.modules_to_save", None),
        ({"peft_use_rslora": True}, "training.lora.use_rslora", True),
        ({"peft_use_dora": True}, "training.lora.use_dora", True),
        ({"train_on_inputs": True}, "training.train_on", "all"),
        ({"optimizer": "adamw_bnb_8bit"}, "training.advanced.optimizer", "adamw_8bit"),
        ({"sdp_attention": True}, "training.advanced.attn_implementation", "sdpa"),
        ({"eager_attention": True}, "training.advanced.attn_implementation", "eager"),
        ({"attn_implementation": "eager"}, "training.advanced.attn_implementation", "eager"),
        ({"attn_implementation": "sdpa"}, "training.advanced.attn_implementation", "sdpa"),
        ({"warmup_ratio": 0.7}, "training.advanced.warmup_ratio", 0.5),
        ({"bf16": False}, "training.advanced.quantization.compute_dtype", "float32"),
        (
            {"lora_target_modules": ["q_proj", "lm_head"]},
            "training.lora.target_modules",
            ["q_proj"],
        ),
        (
            {"datasets": [{"path": "org/rows", "type": "alpaca_chat.load_qa"}]},
            "dataset.format",
            "alpaca",
        ),
        ({"fp16": True}, "training.advanced.quantization.compute_dtype", "float16"),
        ({"excess_length_strategy": "truncate"}, "training.advanced.overlong", "truncate"),
        ({"excess_length_strategy": "raise"}, "training.advanced.overlong", "refuse"),
        (
            {"early_stopping_patience": 3, "val_set_size": 0.1},
            "training.advanced.early_stopping_patience",
            3,
        ),
        ({"dataset_exact_deduplication": True}, "dataset.duplicates", "drop"),
        (
            {"chat_template": "jinja", "chat_template_jinja": "{{ messages }}"},
            "dataset.chat_template",
            "{{ messages }}",
        ),
        ({"revision_of_model": "abc"}, "model.revision", "abc"),
        ({"learning_rate": "1e-5"}, "training.learning_rate", 1e-5),
        ({"eval_steps": 50}, "training.advanced.eval_steps", None),
        ({"eval_steps": 50, "val_set_size": 0.1}, "training.advanced.eval_steps", 50),
        ({"sample_packing": True}, "training.packing", "always"),
        ({"gradient_checkpointing": "unsloth"}, "training.advanced.gradient_checkpointing", True),
        (
            {"bnb_config_kwargs": {"bnb_4bit_use_double_quant": False}},
            "training.advanced.quantization.double_quant",
            False,
        ),
        (
            {"datasets": [{"path": "org/r", "type": "completion", "field": "body"}]},
            "dataset.columns.text",
            "body",
        ),
        (
            {"datasets": [{"path": "org/r", "type": {"field_instruction": "q"}}]},
            "dataset.columns.instruction",
            "q",
        ),
    ],
)
def test_setting_is_converted(changes: dict[str, Any], path: str, value: Any) -> None:
    found: Any = imported(**changes)[0].spec
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value


def test_test_datasets_become_the_evaluation_dataset() -> None:
    rows = {"path": "org/test", "type": "alpaca", "revision": "v1"}
    resolved, warnings = imported(test_datasets=[rows], eval_steps=50)
    found = resolved.spec.evaluation.dataset
    assert found is not None
    assert (found.source, found.revision, found.format) == ("hf://org/test", "v1", "alpaca")
    assert found.split == "test", "the default of Axolotl"
    assert resolved.spec.dataset.validation_fraction == 0
    assert resolved.spec.training.advanced.eval_steps == 50
    assert warnings == []


def test_local_test_file_becomes_a_configmap_and_only_the_first_dataset_is_used() -> None:
    rows = {"path": "eval.jsonl", "ds_type": "json", "split": "train", "type": "chat_template"}
    resolved, warnings = imported(test_datasets=[rows, rows])
    found = resolved.spec.evaluation.dataset
    assert found is not None
    assert found.source == "configmap://evaluation-rows/rows.jsonl"
    assert "has 2 datasets, and the job uses only the first" in only(warnings, "test_datasets:")
    assert "create configmap evaluation-rows" in only(warnings, "test_datasets[0].path")
    with pytest.raises(InvalidSpec, match="replaces the rows held out"):
        imported(test_datasets=[rows], val_set_size=0.1)


def test_minimal_configuration_gets_no_warning() -> None:
    assert imported()[1] == []


def test_only_columns_that_differ_from_the_default_are_written() -> None:
    custom = {"field_instruction": "q", "field_output": "output"}
    manifest, _ = convert(MINIMAL | {"datasets": [{"path": "org/rows", "type": custom}]})
    assert manifest["spec"]["dataset"]["columns"] == {"instruction": "q"}
    plain = {"path": "org/rows", "type": "completion", "field": "text"}
    manifest, _ = convert(MINIMAL | {"datasets": [plain]})
    assert "columns" not in manifest["spec"]["dataset"]


def test_switched_off_settings_get_no_warning() -> None:
    off = {"deepspeed": None, "liger_layer_norm": False, "unknown_switch": False, "debug": True}
    assert imported(**off)[1] == []
