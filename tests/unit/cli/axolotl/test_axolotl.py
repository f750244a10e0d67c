"""The conversion of Axolotl configurations to FineTuneJobs, and its notes."""

import json
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tests.unit.trainer import shapes

from finetune_api.defaulting import Resolved, builtin_defaults, resolve
from finetune_api.v1alpha1.training.lora import ALL_LINEAR
from finetune_api.validation import findings
from finetune_cli.__main__ import main
from finetune_cli.axolotl import templates
from finetune_cli.axolotl.convert import convert
from finetune_cli.offline import job_file
from finetune_trainer.errors import InvalidSpec

ARTICLE = Path(__file__).parent / "axolotl-article.yml"
IMPORTED = Path(__file__).parents[3] / "integration/manifests/valid/imported-from-axolotl.yaml"
"""The conversion of the article; the integration tests apply it to a real API server."""
MINIMAL: dict[str, Any] = {
    "base_model": "org/model",
    "adapter": "qlora",
    "load_in_4bit": True,
    "gradient_checkpointing": True,
    "warmup_ratio": 0.03,
    "datasets": [{"path": "org/rows", "type": "chat_template"}],
}

LIGER: dict[str, Any] = {
    "plugins": ["axolotl.integrations.liger.LigerPlugin"],
    "liger_fused_linear_cross_entropy": True,
}


def article() -> dict[str, Any]:
    return job_file.load(ARTICLE)[0]


def imported(**changes: Any) -> tuple[Resolved, list[str]]:
    config = {key: value for key, value in (MINIMAL | changes).items() if value is not None}
    manifest, notes = convert(config)
    return resolve(manifest["spec"], builtin_defaults()), [*map(str, notes)]


def only(notes: list[str], key: str) -> str:
    (found,) = [each for each in notes if each.partition("  ")[2].strip().startswith(key)]
    return found


def test_article_is_converted_field_by_field() -> None:
    manifest, _ = convert(article())
    assert manifest["metadata"]["name"] == "llama3-8b-qlora"
    spec = resolve(manifest["spec"], builtin_defaults()).spec
    assert spec.model.source == "hf://meta-llama/Meta-Llama-3-8B-Instruct"
    assert (spec.common_dataset.source, spec.common_dataset.format) == (
        "hf://tatsu-lab/alpaca",
        "alpaca",
    )
    assert spec.common_dataset.prompt_template == "alpaca"
    assert spec.common_dataset.validation_fraction == 0.05
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


def test_notes_about_the_article_begin_with_the_changed_settings() -> None:
    _, notes = convert(article())
    texts = [*map(str, notes)]
    assert texts[0].startswith("changed     datasets[0].shards: 10: the job sets weight: 0.1.")
    assert "earlyStoppingPatience" in only(texts, "load_best_model_at_end")
    assert "Axolotl's default is off" in only(texts, "gradient_checkpointing")
    assert "Alpaca prompt" in only(texts, "datasets[0].type: alpaca")
    assert [note.severity for note in notes] == ["changed"] * 2 + ["equivalent"] * 2


def write_base(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(shapes.LLAMA3_8B))


def test_estimate_refuses_the_article_on_an_a10g(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_base(tmp_path)
    assert main(["import-axolotl", str(ARTICLE), "--model", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "0 dropped, 2 changed, 2 equivalent" in said.err
    (tmp_path / "finetune.yaml").write_text(said.out)
    file = str(tmp_path / "finetune.yaml")
    assert main(["estimate", "-f", file, "--model", str(tmp_path)]) == 82
    refusal = capsys.readouterr().err
    for text in (said.err, refusal):
        assert "NVIDIA-A10G has 22.49 GiB" in text
        assert "gradientCheckpointing: true" in text
        assert text.count("(1)") == text.count("(2)") == text.count("(3)") == 1


def test_import_without_the_configuration_of_the_base_says_why_there_is_no_estimate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import-axolotl", str(ARTICLE), "--model", str(tmp_path / "absent")]) == 0
    assert "no estimate: " in capsys.readouterr().err


def test_strict_import_fails_if_a_setting_is_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_base(tmp_path)
    options = ["--strict", "--model", str(tmp_path)]
    file = tmp_path / "lossy.yml"
    file.write_text(json.dumps(MINIMAL | {"optimizer": "muon"}))
    assert main(["import-axolotl", str(file), *options]) == 64
    said = capsys.readouterr()
    assert said.out, "the manifest is printed all the same"
    assert said.err.endswith("--strict: 1 settings are dropped\n")
    assert main(["import-axolotl", str(ARTICLE), *options]) == 0


def test_invalid_name_on_the_command_line_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import-axolotl", str(ARTICLE), "--name", "Bad_Name"]) == 64
    said = capsys.readouterr()
    assert said.out == ""
    assert "--name Bad_Name is not a valid name" in said.err
    assert "lower-case letters" in said.err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"load_in_8bit": True, "load_in_4bit": None},
            "changed     load_in_8bit: true: the job",
        ),
        ({"deepspeed": "zero3.json"}, "changed     deepspeed: zero3.json: a job trains on one GPU"),
        ({"fsdp": ["full_shard"]}, "changed     fsdp: a job trains on one GPU"),
        ({"fsdp_config": {"fsdp_version": 2}}, "changed     fsdp_config: a job trains on one"),
        ({"load_in_4bit": None, "adapter": "lora"}, "the job loads it in 4 bits (NF4)"),
        ({"trust_remote_code": True}, "rejects a model that needs its own Python code"),
        (
            {"wandb_project": "x"},
            "equivalent  wandb_project: x: the status and the",
        ),
        ({"gradient_checkpointing": None}, "Axolotl's default is off"),
        ({"val_set_size": 200}, "validationFraction"),
        ({"loraplus_lr_embedding": 1e-6}, "equivalent  loraplus_lr_embedding: 1e-06: this rate"),
        (
            {"optimizer": "muon"},
            "dropped     optimizer: muon: the job sets optimizer: adamw_torch_fused",
        ),
        (
            {"optimizer": "adamw_torch_8bit"},
            "changed     optimizer: adamw_torch_8bit: the",
        ),
        ({"lora_modules_to_save": ["norm", "lm_head"]}, "in full: the job does not train norm"),
        ({"unfrozen_parameters": ["^lm_head.weight$"]}, "only the modules in training.lora.mod"),
        (
            {"datasets": [{"path": "./rows.jsonl", "type": "chat_template", "name": "main"}]},
            "dropped     datasets[0].name: main: only a repository on the hub has configurations",
        ),
        ({"datasets": [{"path": "./rows.jsonl", "type": "completion"}]}, "ConfigMap"),
        (
            {
                "datasets": [
                    {"path": "org/a", "type": "alpaca"},
                    {"path": "org/b", "type": "chat_template"},
                ]
            },
            "changed     datasets[0].type: alpaca: the chat template renders all datasets",
        ),
        ({"attn_implementation": "flex_attention"}, "attn_implementation: flex_attention"),
        (
            {"overrides_of_model_config": {"rope_theta": 1}},
            "dropped     overrides_of_model_config",
        ),
        (
            {"early_stopping_patience": 3, "val_set_size": 0},
            "dropped     early_stopping_patience",
        ),
        (
            {"liger_layer_norm": True},
            "equivalent  liger_layer_norm: true: a job uses Liger",
        ),
        (
            LIGER | {"lora_modules_to_save": ["lm_head"]},
            "equivalent  liger_fused_linear_cross_entropy: true: the job does not use Liger's loss",
        ),
        ({"chunked_cross_entropy": True}, "equivalent  chunked_cross_entropy: true: the backend"),
        ({"lora_target_modules": ["q_proj", "lm_head"]}, "a job trains no adapter on lm_head"),
        (
            {"warmup_ratio": 0.7},
            "warmup_ratio: 0.7: exceeds half of all steps, so the job sets warmupRatio: 0.5",
        ),
    ],
)
def test_setting_that_is_not_copied_gets_a_note(changes: dict[str, Any], words: str) -> None:
    _, notes = imported(**changes)
    assert [each for each in notes if words in each], notes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"adapter": None}, "trains all weights"),
        ({"rl": "dpo"}, "rl: dpo"),
        ({"reward_model": True}, "reward_model: true is not supported"),
        ({"base_model": "./local"}, "base_model"),
        ({"datasets": []}, "datasets"),
        (
            {"processor_type": "AutoProcessor"},
            "trains on text only",
        ),
        ({"gptq": True}, "gptq: true is not supported, because the job itself quantizes the base"),
        ({"plugins": ["axolotl.integrations.diffusion.DiffusionPlugin"]}, "diffusion"),
        *(
            (
                {"datasets": [{"path": "org/rows", "type": "chat_template", "split": split}]},
                r"datasets\[0\].split: .* write train\[:1000\]",
            )
            for split in (
                "train[:101%]",
                "train[10%:]",
                "train[10:20]",
                "train+test",
                "train[:0]",
                "train[-5:]",
            )
        ),
    ],
)
def test_other_kinds_of_training_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        imported(**changes)


@pytest.mark.parametrize(
    ("changes", "path", "value"),
    [
        ({"max_steps": 60, "num_epochs": 3}, "training.max_steps", 60),
        (
            {"max_steps": 60, "warmup_ratio": None, "warmup_steps": 6},
            "training.advanced.warmup_steps",
            6,
        ),
        ({"lora_target_linear": True}, "training.lora.target_modules", ["all-linear"]),
        (
            {"lora_modules_to_save": ["lm_head", "embed_tokens"]},
            "training.lora.modules_to_save",
            ["embed_tokens", "lm_head"],
        ),
        ({"lora_modules_to_save": ["norm"]}, "training.lora.modules_to_save", None),
        ({"peft_use_rslora": True}, "training.lora.use_rslora", True),
        ({"neftune_noise_alpha": 5}, "training.advanced.neftune_noise_alpha", 5),
        ({"neftune_noise_alpha": 0}, "training.advanced.neftune_noise_alpha", None),
        ({"noisy_embedding_alpha": 5}, "training.advanced.neftune_noise_alpha", 5),
        ({"loraplus_lr_ratio": 16}, "training.advanced.loraplus_lr_ratio", 16),
        (LIGER, "training.advanced.liger_fused_linear_cross_entropy", True),
        (LIGER | {"plugins": []}, "training.advanced.liger_fused_linear_cross_entropy", False),
        (LIGER | {"fp16": True}, "training.advanced.liger_fused_linear_cross_entropy", False),
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
        (
            {"datasets": [{"path": "org/r", "type": "alpaca", "split": "train[:1000]"}]},
            "dataset.max_samples",
            1000,
        ),
        (
            {"datasets": [{"path": "org/r", "type": "alpaca", "split": "test[:5]"}]},
            "dataset.split",
            "test",
        ),
        ({"optimizer": "adamw_torch_8bit"}, "training.advanced.optimizer", "adamw_8bit"),
        ({"optimizer": "adamw_torch_4bit"}, "training.advanced.optimizer", "adamw_8bit"),
        (
            {"lora_target_modules": r"model.layers.[\d]+.(mlp|self_attn).(up|down|q)_proj"},
            "training.lora.target_modules",
            ["q_proj", "up_proj", "down_proj"],
        ),
        (
            {"lora_target_modules": r"layers.\d+.(self_attn.(q_a_proj|kv_a_proj_with_mqa))"},
            "training.lora.target_modules",
            ["kv_a_proj_with_mqa", "q_a_proj"],
        ),
        ({"lora_target_modules": ".*experts.*"}, "training.lora.target_modules", ["all-linear"]),
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
    assert resolved.spec.common_dataset.validation_fraction == 0
    assert resolved.spec.training.advanced.eval_steps == 50
    assert warnings == []


def test_local_test_file_becomes_a_configmap_and_only_the_first_dataset_evaluates() -> None:
    rows = {"path": "eval.jsonl", "ds_type": "json", "split": "train", "type": "chat_template"}
    resolved, warnings = imported(test_datasets=[rows, rows])
    found = resolved.spec.evaluation.dataset
    assert found is not None
    assert found.source == "configmap://evaluation-rows/rows.jsonl"
    assert "has 2 datasets, but the job evaluates only on the first" in only(
        warnings, "test_datasets:"
    )
    assert "create configmap evaluation-rows" in only(warnings, "test_datasets[0].path")
    with pytest.raises(InvalidSpec, match="replaces the rows held out"):
        imported(test_datasets=[rows], val_set_size=0.1)


def test_minimal_configuration_gets_no_note() -> None:
    assert imported()[1] == []


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            {"message_property_mappings": {"role": "role", "tool_calls": "calls"}},
            "message_property_mappings: the job can rename only the keys for the role and the "
            "content of a message: in the rows, rename calls to tool_calls",
        ),
        ({"roles": {"critic": ["judge"]}}, "roles: a job cannot rename a role to critic: the only"),
        ({"message_field_training": "train"}, "exclude a message from the loss, set weight: 0"),
        ({"drop_system_message": True}, "the job keeps the system messages"),
        ({"field_thinking": "thoughts"}, "rename it to reasoning_content in the rows"),
        ({"roles_to_train": ["user"]}, "the loss covers only the messages of the assistant"),
        ({"train_on_eos": "last"}, "the loss always covers the end token of each answer"),
    ],
)
def test_other_messages_are_explained(rows: dict[str, Any], words: str) -> None:
    _, notes = imported(datasets=[{"path": "org/rows", "type": "chat_template"} | rows])
    (note,) = notes
    assert note.startswith("dropped")
    assert words in note


def test_usual_messages_get_no_note() -> None:
    usual = {
        "message_property_mappings": {"role": "role", "content": "content"},
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
        "roles": {"user": ["user"], "assistant": ["assistant"]},
        "field_tools": "tools",
        "field_thinking": "thinking",
        "template_thinking_key": "thinking",
    }
    assert imported(datasets=[{"path": "org/rows", "type": "chat_template"} | usual])[1] == []


FROM_VALUE = {"role": "from", "content": "value"}
OLD_KEYS = {"message_field_role": "from", "message_field_content": "value"}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ({}, {"format": "messages"}),
        ({"field_messages": "turns"}, {"format": "messages", "columns": {"messages": "turns"}}),
        ({"field_tools": "functions"}, {"format": "messages", "columns": {"tools": "functions"}}),
        (
            {"field_messages": "conversations", "message_property_mappings": FROM_VALUE},
            {"format": "sharegpt"},
        ),
        (OLD_KEYS, {"format": "sharegpt", "columns": {"messages": "messages"}}),
        ({"type": "sharegpt"}, {"format": "sharegpt"}),
        (
            {"message_property_mappings": {"content": "text"}},
            {"format": "messages", "mapping": {"content": "text"}},
        ),
        (
            {"message_property_mappings": {"role": "who"}},
            {
                "format": "messages",
                "mapping": {"role": "who", "roles": {"human": "user", "gpt": "assistant"}},
            },
        ),
        (
            {"message_property_mappings": {"role": "who"}, "roles": {"assistant": ["bot", "me"]}},
            {
                "format": "messages",
                "mapping": {"role": "who", "roles": {"bot": "assistant", "me": "assistant"}},
            },
        ),
        (
            {"message_property_mappings": FROM_VALUE, "roles": {"tool": ["function"]}},
            {
                "format": "sharegpt",
                "columns": {"messages": "messages"},
                "mapping": {"roles": {"function": "tool"}},
            },
        ),
    ],
)
def test_conversations_keep_their_keys_roles_and_columns(
    rows: dict[str, Any], expected: dict[str, Any]
) -> None:
    entry = {"path": "org/rows", "type": "chat_template"} | rows
    manifest, notes = convert(MINIMAL | {"datasets": [entry]})
    found = {"source": "hf://org/rows", "validationFraction": 0.0} | expected
    assert manifest["spec"]["dataset"] == found
    assert findings(manifest) == []
    assert [note.severity for note in notes if note.severity == "dropped"] == []


def test_several_datasets_become_a_list_with_common_fields_in_the_first() -> None:
    rows = [
        {"path": "org/Chat.v2", "type": "chat_template", "field_messages": "turns"},
        {"path": "other/chat", "type": "chat_template", "split": "test[:50]"},
        {"path": "more/chat", "type": "sharegpt", "conversation": "vicuna"},
        {"path": "./local.jsonl", "ds_type": "json", "type": "completion"},
    ]
    common = {"val_set_size": 0.1, "dataset_exact_deduplication": True}
    template = {"chat_template_jinja": "{{ messages }}"}
    manifest, notes = convert(MINIMAL | {"datasets": rows} | common | template)
    assert "dataset" not in manifest["spec"]
    assert manifest["spec"]["datasets"] == [
        {
            "name": "chat",
            "source": "hf://org/Chat.v2",
            "format": "messages",
            "columns": {"messages": "turns"},
            "chatTemplate": "{{ messages }}",
            "validationFraction": 0.1,
            "duplicates": "drop",
        },
        {
            "name": "chat-2",
            "source": "hf://other/chat",
            "format": "messages",
            "split": "test",
            "maxSamples": 50,
        },
        {"name": "chat-3", "source": "hf://more/chat", "format": "sharegpt"},
        {"name": "local", "source": "configmap://rows-4/rows.jsonl", "format": "text"},
    ]
    assert findings(manifest) == []
    assert [str(note).split(":")[0] for note in notes] == [
        "dropped     datasets[3].path",
        "changed     datasets[2].conversation",
        "changed     datasets[3].type",
    ]


def test_several_alpaca_datasets_have_the_alpaca_prompt() -> None:
    rows = [{"path": "org/a", "type": "alpaca"}] * 2
    manifest, notes = convert(MINIMAL | {"datasets": rows})
    first, second = manifest["spec"]["datasets"]
    assert (first["name"], second["name"]) == ("a", "a-2")
    assert first["promptTemplate"] == "alpaca"
    assert "promptTemplate" not in second
    assert [note.severity for note in notes] == ["equivalent", "equivalent"]


def test_only_dataset_can_have_a_chat_template_of_its_own() -> None:
    own = {"path": "org/a", "type": "chat_template", "chat_template_jinja": "{{ messages }}"}
    found = imported(datasets=[own])[0].spec.common_dataset
    assert found.chat_template == "{{ messages }}"


@pytest.mark.parametrize(
    ("base", "name", "severity", "carried"),
    [
        ("org/Model-8B", "chatml", "changed", True),
        ("meta-llama/Llama-3.1-8B", "llama3", "changed", True),
        ("google/gemma-2-2b", "gemma", "changed", True),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama3", "changed", False),
        ("google/gemma-2-2b-it", "gemma", "changed", False),
        ("Qwen/Qwen3-32B", "qwen3", "changed", False),
        ("Qwen/Qwen3-8B-Base", "qwen3", "dropped", False),
        ("org/Model-8B", "tokenizer_default_fallback_chatml", "changed", False),
    ],
)
def test_named_chat_template_is_carried_over_to_a_base_without_one(
    base: str, name: str, severity: str, carried: bool
) -> None:
    resolved, (note,) = imported(base_model=base, chat_template=name)
    assert note.startswith(severity)
    assert (resolved.spec.common_dataset.chat_template is not None) == carried


def test_chat_template_of_the_tokenizer_gets_no_note() -> None:
    assert imported(chat_template="tokenizer_default")[1] == []


def test_chat_template_without_conversations_is_not_carried_over() -> None:
    rows = [{"path": "org/rows", "type": "completion"}]
    resolved, notes = imported(chat_template="chatml", datasets=rows)
    assert resolved.spec.common_dataset.chat_template is None
    assert only(notes, "chat_template").startswith("equivalent")


@pytest.mark.parametrize("name", templates.TEMPLATES)
def test_carried_over_template_renders_a_conversation(name: str) -> None:
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Good day"},
    ]
    template = ImmutableSandboxedEnvironment().from_string(templates.TEMPLATES[name])
    whole = template.render(messages=messages, bos_token="<s>")
    prompt = template.render(messages=messages[:1], bos_token="<s>", add_generation_prompt=True)
    assert whole.startswith(prompt)
    assert whole.removeprefix(prompt).startswith("Good day<")
    assert "model" in whole if name == "gemma" else "assistant" in whole


def test_only_columns_that_differ_from_the_default_are_written() -> None:
    custom = {"field_instruction": "q", "field_output": "output"}
    manifest, _ = convert(MINIMAL | {"datasets": [{"path": "org/rows", "type": custom}]})
    assert manifest["spec"]["dataset"]["columns"] == {"instruction": "q"}
    plain = {"path": "org/rows", "type": "completion", "field": "text"}
    manifest, _ = convert(MINIMAL | {"datasets": [plain]})
    assert "columns" not in manifest["spec"]["dataset"]


def test_switched_off_settings_get_no_note() -> None:
    off = {"deepspeed": None, "liger_layer_norm": False, "unknown_switch": False, "debug": True}
    assert imported(**off)[1] == []
