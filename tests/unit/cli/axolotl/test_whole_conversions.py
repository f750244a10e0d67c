"""The whole effect of a setting of Axolotl: every field that differs, and every note, in full."""

from typing import Any

import pytest
from tests.unit.cli.axolotl.test_axolotl import LIGER, MINIMAL

from finetune_api.crd.definition import NAME_MAX_LENGTH
from finetune_cli.axolotl.convert import convert
from finetune_trainer.errors import InvalidSpec

ABSENT = object()
LIGER_PLUGIN = (
    "equivalent  plugins: axolotl.integrations.liger.LigerPlugin: a job uses Liger for the loss "
    "only"
)
NO_LIGER = (
    "equivalent  liger_fused_linear_cross_entropy: true: the job does not use Liger's loss with"
)
NOT_A_FRACTION = (
    "is not in the range of validationFraction, 0 to 0.5, so the job sets validationFraction: 0.05"
)
ONE_GPU = (
    "a job trains on one GPU, but Axolotl multiplies the effective batch size by the number of "
    "GPUs: check training.effectiveBatchSize, and check the memory with ftj estimate"
)


def converted(changes: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of the job by path, and the notes."""
    config = {key: value for key, value in (MINIMAL | changes).items() if value is not None}
    manifest, notes = convert(config)
    return fields(manifest), [*map(str, notes)]


def fields(value: Any, at: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {at: value}
    found: dict[str, Any] = {}
    for key, each in value.items():
        found |= fields(each, f"{at}.{key}" if at else key)
    return found


def test_minimal_configuration_states_the_defaults_of_axolotl() -> None:
    assert convert(MINIMAL)[0] == {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "model"},
        "spec": {
            "model": {"source": "hf://org/model"},
            "dataset": {
                "source": "hf://org/rows",
                "format": "messages",
                "validationFraction": 0.0,
            },
            "training": {
                "epochs": 1,
                "learningRate": 2e-4,
                "effectiveBatchSize": 1,
                "sequenceLength": 512,
                "packing": "never",
                "seed": 42,
                "lora": {"r": 8, "alpha": 16, "dropout": 0.0, "targetModules": ["all-linear"]},
                "advanced": {
                    "microBatchSize": 1,
                    "gradientCheckpointing": True,
                    "padToSequenceLength": False,
                    "optimizer": "adamw_torch_fused",
                    "lrSchedulerType": "cosine",
                },
            },
        },
    }


RECIPE: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
    (
        {"batch_size": 3, "gradient_accumulation_steps": 4},
        {"effectiveBatchSize": 12, "advanced.microBatchSize": 3},
        [],
    ),
    (
        {"micro_batch_size": 2, "batch_size": 3},
        {"effectiveBatchSize": 2, "advanced.microBatchSize": 2},
        [],
    ),
    ({"num_epochs": 2, "seed": 0}, {"epochs": 2, "seed": 0}, []),
    ({"max_steps": 60, "num_epochs": 3}, {"maxSteps": 60, "epochs": ABSENT}, []),
    (
        {"learning_rate": "1e-5", "sequence_len": 1024},
        {"learningRate": 1e-5, "sequenceLength": 1024},
        [],
    ),
    ({"train_on_inputs": True}, {"trainOn": "all"}, []),
    ({"sample_packing": True}, {"packing": "always"}, []),
    (
        {"lora_r": 4, "lora_alpha": 6, "lora_dropout": 0.1},
        {"lora.r": 4, "lora.alpha": 6, "lora.dropout": 0.1},
        [],
    ),
    ({"lora_target_modules": ["q_proj"]}, {"lora.targetModules": ["q_proj"]}, []),
    ({"lora_target_modules": ["q_proj"], "lora_target_linear": True}, {}, []),
    ({"lora_target_modules": "all-linear"}, {}, []),
    (
        {"lora_target_modules": ".*experts.*"},
        {},
        [
            "changed     lora_target_modules: .*experts.*: a job does not support patterns: it "
            "adapts all linear layers"
        ],
    ),
    (
        {"lora_target_modules": "(q|k)_proj|mlp.up_proj"},
        {"lora.targetModules": ["q_proj", "k_proj", "up_proj"]},
        [
            "changed     lora_target_modules: (q|k)_proj|mlp.up_proj: a job does not support "
            "patterns: it adapts all layers named q_proj, k_proj, up_proj"
        ],
    ),
    (
        {"lora_target_modules": ["q_proj", "lm_head"]},
        {"lora.targetModules": ["q_proj"]},
        ["dropped     lora_target_modules: a job trains no adapter on lm_head"],
    ),
    (
        {"lora_modules_to_save": ["embed_tokens", "norm", "x"]},
        {"lora.modulesToSave": ["embed_tokens"]},
        [
            "dropped     lora_modules_to_save: only embed_tokens and lm_head can be trained in "
            "full: the job does not train norm, x"
        ],
    ),
    (
        {"peft_use_rslora": True, "peft_use_dora": True},
        {"lora.useRslora": True, "lora.useDora": True},
        [],
    ),
    (
        {"gradient_checkpointing": None},
        {"advanced.gradientCheckpointing": False},
        [
            "equivalent  gradient_checkpointing: is not set, and Axolotl's default is off. The job "
            "therefore sets gradientCheckpointing: false, and the activations of all layers stay "
            "in GPU memory. To save memory, set gradientCheckpointing: true in the job"
        ],
    ),
    (
        {"gradient_checkpointing": "unsloth"},
        {},
        [
            "equivalent  gradient_checkpointing: unsloth: the job sets gradientCheckpointing: "
            "true; the backend decides whether to offload the activations"
        ],
    ),
    ({"gradient_checkpointing": False}, {"advanced.gradientCheckpointing": False}, []),
    ({"pad_to_sequence_len": True}, {"advanced.padToSequenceLength": True}, []),
    ({"excess_length_strategy": "drop"}, {}, []),
    ({"excess_length_strategy": "raise"}, {"advanced.overlong": "refuse"}, []),
    ({"excess_length_strategy": "truncate"}, {"advanced.overlong": "truncate"}, []),
    (
        {"early_stopping_patience": 3},
        {},
        ["dropped     early_stopping_patience: 3: needs held-out rows: set val_set_size"],
    ),
    (
        {"early_stopping_patience": 3, "val_set_size": 0.5},
        {"spec.dataset.validationFraction": 0.5, "advanced.earlyStoppingPatience": 3},
        [],
    ),
    (
        {"optimizer": "muon"},
        {},
        ["dropped     optimizer: muon: the job sets optimizer: adamw_torch_fused"],
    ),
    ({"optimizer": "adamw_hf"}, {"advanced.optimizer": "adamw_torch"}, []),
    ({"optimizer": "adamw_bnb_8bit"}, {"advanced.optimizer": "adamw_8bit"}, []),
    *(
        (
            {"optimizer": name},
            {} if nearest == "adamw_torch_fused" else {"advanced.optimizer": nearest},
            [f"changed     optimizer: {name}: the job sets optimizer: {nearest}"],
        )
        for name, nearest in (
            ("adamw_apex_fused", "adamw_torch_fused"),
            ("adamw_anyprecision", "adamw_torch"),
            ("lion_pytorch", "lion_32bit"),
            ("adamw_torch_8bit", "adamw_8bit"),
            ("adamw_torch_4bit", "adamw_8bit"),
            ("ao_adamw_8bit", "adamw_8bit"),
            ("ao_adamw_4bit", "adamw_8bit"),
            ("ao_adamw_fp8", "adamw_8bit"),
        )
    ),
    ({"lr_scheduler": "linear"}, {"advanced.lrSchedulerType": "linear"}, []),
    (
        {"lr_scheduler": "rex"},
        {},
        ["dropped     lr_scheduler: rex: the job sets lrSchedulerType: cosine"],
    ),
    (
        {"warmup_steps": 10},
        {},
        [
            "changed     warmup_steps: 10: is a number of steps, but warmupRatio is a fraction "
            "of all steps. The number of all steps is not known yet, so the job uses the "
            "default warmupRatio: 0.03"
        ],
    ),
    (
        {"warmup_steps": 1, "max_steps": 3000},
        {"maxSteps": 3000, "epochs": ABSENT, "advanced.warmupRatio": 0.0003},
        [],
    ),
    (
        {"warmup_steps": 0, "max_steps": 100},
        {"maxSteps": 100, "epochs": ABSENT, "advanced.warmupRatio": 0.0},
        [],
    ),
    ({"warmup_ratio": 0.1, "warmup_steps": 10}, {"advanced.warmupRatio": 0.1}, []),
    ({"warmup_ratio": 0}, {"advanced.warmupRatio": 0.0}, []),
    ({"warmup_ratio": 0.5}, {"advanced.warmupRatio": 0.5}, []),
    (
        {"warmup_ratio": 0.51},
        {"advanced.warmupRatio": 0.5},
        [
            "changed     warmup_ratio: 0.51: exceeds the maximum of 0.5, so the job sets "
            "warmupRatio: 0.5"
        ],
    ),
    (
        {"weight_decay": 0.0, "max_grad_norm": 0.5, "loraplus_lr_ratio": 4, "logging_steps": 1},
        {
            "advanced.weightDecay": 0.0,
            "advanced.maxGradNorm": 0.5,
            "advanced.loraplusLrRatio": 4,
            "advanced.loggingSteps": 1,
        },
        [],
    ),
    ({"tf32": False}, {"advanced.tf32": False}, []),
    (
        {"neftune_noise_alpha": 5, "noisy_embedding_alpha": 6},
        {"advanced.neftuneNoiseAlpha": 5},
        [],
    ),
    (LIGER, {"advanced.ligerFusedLinearCrossEntropy": True}, [LIGER_PLUGIN]),
    (LIGER | {"plugins": None}, {}, []),
    (
        LIGER | {"fp16": True},
        {"advanced.quantization.computeDtype": "float16"},
        [f"{NO_LIGER} float16", LIGER_PLUGIN],
    ),
    (
        LIGER | {"lora_modules_to_save": ["lm_head"]},
        {"lora.modulesToSave": ["lm_head"]},
        [f"{NO_LIGER} a head that is trained in full", LIGER_PLUGIN],
    ),
    ({"attn_implementation": "sdpa"}, {"advanced.attnImplementation": "sdpa"}, []),
    ({"attn_implementation": "eager"}, {"advanced.attnImplementation": "eager"}, []),
    ({"attn_implementation": "flash_attention_2"}, {}, []),
    (
        {"attn_implementation": "flex"},
        {},
        [
            "equivalent  attn_implementation: flex: the job uses attnImplementation: auto",
        ],
    ),
    ({"sdp_attention": True}, {"advanced.attnImplementation": "sdpa"}, []),
    ({"eager_attention": True}, {"advanced.attnImplementation": "eager"}, []),
    (
        {
            "bnb_config_kwargs": {
                "bnb_4bit_quant_type": "fp4",
                "bnb_4bit_use_double_quant": False,
            }
        },
        {"advanced.quantization.type": "fp4", "advanced.quantization.doubleQuant": False},
        [],
    ),
    ({"fp16": "auto", "bf16": "auto"}, {}, []),
    ({"bf16": False}, {"advanced.quantization.computeDtype": "float32"}, []),
    ({"bf16": False, "fp16": True}, {"advanced.quantization.computeDtype": "float16"}, []),
    ({"bfloat16": True, "float16": True}, {}, []),
    (
        {"eval_steps": 5, "evals_per_epoch": 4, "val_set_size": 0.1},
        {"spec.dataset.validationFraction": 0.1, "advanced.evalSteps": 5},
        [],
    ),
    ({"eval_steps": 5, "evals_per_epoch": 4}, {}, []),
    (
        {"evals_per_epoch": 4, "val_set_size": 0.1},
        {"spec.dataset.validationFraction": 0.1},
        [
            "equivalent  evals_per_epoch: 4: depends on the number of rows, so the job uses "
            "the default interval: to choose the interval, set eval_steps"
        ],
    ),
    ({"save_steps": 7}, {"advanced.saveSteps": 7}, []),
    ({"save_steps": 0}, {}, []),
    ({"save_steps": 1.0}, {"advanced.saveSteps": 1}, []),
    (
        {"save_steps": 0.25},
        {},
        [
            "equivalent  save_steps: 0.25: is a fraction of the run, so the job uses the default "
            "interval: to choose the interval, set a number of steps"
        ],
    ),
    (
        {"saves_per_epoch": 1},
        {},
        [
            "equivalent  saves_per_epoch: 1: depends on the number of rows, so the job uses "
            "the default interval: to choose the interval, set save_steps"
        ],
    ),
    (
        {
            "eval_strategy": "steps",
            "evaluation_strategy": "steps",
            "save_strategy": "steps",
            "save_total_limit": 2,
        },
        {},
        [],
    ),
]

REST: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
    *(
        (
            {"val_set_size": size},
            {"spec.dataset.validationFraction": 0.05},
            [f"changed     val_set_size: {size}: {NOT_A_FRACTION}"],
        )
        for size in (-1, 0.51, 200)
    ),
    ({"special_tokens": {"pad_token": "x", "eos_token": None}}, {}, []),
    (
        {"special_tokens": {"pad_token": "x", "eos_token": "y"}},
        {},
        ["changed     special_tokens: the job uses the special tokens of the base model"],
    ),
    (
        {
            "plugins": [
                "axolotl.integrations.swanlab.X",
                "axolotl.integrations.cut_cross_entropy.Y",
                "axolotl.integrations.kernels.K",
                "axolotl.integrations.expert_parallel.E",
                "my.plugin",
            ]
        },
        {},
        [
            "dropped     plugins: my.plugin: a job has no plugins",
            f"changed     plugins: axolotl.integrations.expert_parallel.E: {ONE_GPU}",
            "equivalent  plugins: axolotl.integrations.swanlab.X: the status and the "
            "metrics of a job contain the loss",
            "equivalent  plugins: axolotl.integrations.cut_cross_entropy.Y: the backend has its "
            "own memory-saving loss",
            "equivalent  plugins: axolotl.integrations.kernels.K: the backend chooses its kernels",
        ],
    ),
    ({"base_model": "hf://org/model"}, {}, []),
    (
        {"base_model": "org/7B-Model.v2"},
        {"metadata.name": "b-model-v2", "spec.model.source": "hf://org/7B-Model.v2"},
        [],
    ),
    ({"revision_of_model": 7}, {"spec.model.revision": "7"}, []),
    ({"output_dir": "./out/My_Run.1/"}, {"metadata.name": "my-run-1"}, []),
    ({"output_dir": "/---/"}, {"metadata.name": "imported"}, []),
    (
        {"output_dir": f"{'x' * (NAME_MAX_LENGTH - 1)}-y"},
        {"metadata.name": "x" * (NAME_MAX_LENGTH - 1)},
        [],
    ),
    ({"adapter": "lora"}, {}, []),
    (
        {"load_in_4bit": None, "load_in_8bit": True},
        {},
        ["changed     load_in_8bit: true: the job loads the base model in 4 bits (NF4)"],
    ),
    (
        {"load_in_4bit": None},
        {},
        [
            "changed     adapter: qlora: without load_in_4bit, Axolotl loads the base model in 16 "
            "bits; the job loads it in 4 bits (NF4)"
        ],
    ),
]


@pytest.mark.parametrize(
    ("changes", "expected", "notes"), [*RECIPE, *REST], ids=lambda value: str(value)[:40]
)
def test_setting_changes_these_fields_and_gets_these_notes(
    changes: dict[str, Any], expected: dict[str, Any], notes: list[str]
) -> None:
    plain, _ = converted({})
    found, texts = converted(changes)
    differences = {path: value for path, value in found.items() if plain.get(path) != value}
    differences |= dict.fromkeys(plain.keys() - found.keys(), ABSENT)
    assert differences == {
        path if path.startswith(("spec.", "metadata.")) else f"spec.training.{path}": value
        for path, value in expected.items()
    }
    assert texts == notes


def test_name_on_the_command_line_replaces_that_of_the_configuration() -> None:
    assert convert(MINIMAL, name="mine")[0]["metadata"] == {"name": "mine"}


DATASET: dict[str, Any] = {"path": "org/rows", "type": "chat_template"}


@pytest.mark.parametrize(
    ("rows", "expected", "notes"),
    [
        (
            {"shards": 8, "shards_idx": 0, "preprocess_shards": 2},
            {"format": "messages"},
            [
                "dropped     datasets[0].shards: 8: keeps one of 8 shards: Axolotl trains on 1/8 "
                "of the rows (12.5 %), but the job trains on all rows. To train on fewer rows, "
                "set dataset.maxSamples"
            ],
        ),
        ({"revision": 7}, {"format": "messages", "revision": "7"}, []),
        (
            {"path": "./rows.jsonl", "split": "train[:5]"},
            {"source": "configmap://rows/rows.jsonl", "format": "messages", "maxSamples": 5},
            [
                "dropped     datasets[0].path: ./rows.jsonl: is not a hub repository, so the job "
                "reads the rows from a ConfigMap: create it (kubectl create configmap rows "
                "--from-file=rows.jsonl), or put the rows into a dataset repository and set source "
                "to hf://organization/name"
            ],
        ),
        (
            {"type": "completion", "field": "body"},
            {"format": "text", "columns": {"text": "body"}},
            [],
        ),
        ({"type": "pretrain"}, {"format": "text"}, []),
        (
            {"type": {"field_instruction": "q", "field_input": "i", "field_output": "a"}},
            {
                "format": "alpaca",
                "columns": {"instruction": "q", "input": "i", "output": "a"},
            },
            [
                "dropped     datasets[0].type: is a custom prompt: the job uses the chat template "
                "of the base model instead. If the base model has no chat template, the job uses "
                "the Alpaca prompt. To use the Alpaca prompt in both cases, set promptTemplate: "
                "alpaca"
            ],
        ),
        (
            {"type": "alpaca"},
            {"format": "alpaca", "promptTemplate": "alpaca"},
            [
                "equivalent  datasets[0].type: alpaca: Axolotl uses the Alpaca prompt even if the "
                "model has a chat template, so the job sets promptTemplate: alpaca. To use the "
                "chat template of the model, remove promptTemplate"
            ],
        ),
        (
            {"type": "alpaca_w_system.load_open_orca"},
            {"format": "alpaca", "promptTemplate": "alpaca"},
            [
                "dropped     datasets[0].type: alpaca_w_system.load_open_orca: the job uses "
                "format: alpaca; check that the prompt template and the column names of the job "
                "match your rows",
                "equivalent  datasets[0].type: alpaca_w_system.load_open_orca: Axolotl uses the "
                "Alpaca prompt even if the model has a chat template, so the job sets "
                "promptTemplate: alpaca. To use the chat template of the model, remove "
                "promptTemplate",
            ],
        ),
        (
            {"type": "oasst"},
            {"format": "auto"},
            [
                "dropped     datasets[0].type: oasst: the job sets format: auto; convert the rows "
                "if the prepare stage rejects them"
            ],
        ),
        (
            {"type": "messages", "field_thinking": "thoughts"},
            {"format": "messages"},
            [
                "dropped     datasets[0].field_thinking: thoughts: the job does not rename the "
                "key thoughts: rename it to reasoning_content in the rows"
            ],
        ),
        (
            {"template_thinking_key": "thoughts", "field_thinking": "thoughts"},
            {"format": "messages"},
            [],
        ),
        (
            {"message_property_mappings": {"tool_calls": "calls", "name": "name"}},
            {"format": "messages"},
            [
                "dropped     datasets[0].message_property_mappings: the job can rename only "
                "the keys for the role and the content of a message: in the rows, rename calls to "
                "tool_calls"
            ],
        ),
        (
            {"roles": {"critic": ["judge"], "tool": ["function", "tool"]}},
            {"format": "messages", "mapping": {"roles": {"function": "tool"}}},
            [
                "dropped     datasets[0].roles: a job cannot rename a role to critic: the only "
                "possible roles are system, developer, user, assistant, tool"
            ],
        ),
        (
            {"roles_to_train": ["user"]},
            {"format": "messages"},
            [
                "dropped     datasets[0].roles_to_train: the loss covers only the messages of "
                "the assistant"
            ],
        ),
        ({"roles_to_train": ["gpt"]}, {"format": "messages"}, []),
        *(
            (
                {key: "last"},
                {"format": "messages"},
                [
                    f"dropped     datasets[0].{key}: last: the loss always covers the end token of "
                    "each answer"
                ],
            )
            for key in ("train_on_eos", "train_on_eot")
        ),
        *(
            (
                {key: "train"},
                {"format": "messages"},
                [
                    f"dropped     datasets[0].message_field_training{value}: the loss covers all "
                    "messages of the assistant: to exclude a message from the loss, set weight: "
                    "0 in this message"
                ],
            )
            for key, value in (
                ("message_field_training", ": train"),
                ("message_field_training_detail", ""),
            )
        ),
        (
            {"type": "sharegpt", "field_messages": "messages", "drop_system_message": True},
            {"format": "sharegpt", "columns": {"messages": "messages"}},
            [
                "dropped     datasets[0].drop_system_message: true: the job keeps the system "
                "messages: remove them from the rows if the chat template rejects them",
                "changed     datasets[0].type: sharegpt: the chat template of the job renders the "
                "conversations",
            ],
        ),
        (
            {"conversation": "vicuna"},
            {"format": "messages"},
            [
                "changed     datasets[0].conversation: vicuna: the chat template of the job "
                "renders the conversations"
            ],
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_setting_of_a_dataset_is_converted_with_these_notes(
    rows: dict[str, Any], expected: dict[str, Any], notes: list[str]
) -> None:
    manifest, found = convert(MINIMAL | {"datasets": [DATASET | rows]})
    standard = {"source": "hf://org/rows", "validationFraction": 0.0}
    assert manifest["spec"]["dataset"] == standard | expected
    assert [*map(str, found)] == notes


@pytest.mark.parametrize(
    ("base", "severity", "words"),
    [
        (
            "org/Model",
            "changed",
            "the job sets dataset.chatTemplate, because org/Model probably has no chat template; "
            "if it has one, remove dataset.chatTemplate to use the template of the base model",
        ),
        ("org/Model-Instruct", "changed", "the job uses the chat template of the base model"),
    ],
)
def test_note_about_a_chat_template_is_complete(base: str, severity: str, words: str) -> None:
    _, notes = converted({"base_model": base, "chat_template": "chatml"})
    assert notes == [f"{severity:<10}  chat_template: chatml: {words}"]


def test_unknown_chat_template_and_rows_without_conversations_are_explained() -> None:
    assert converted({"chat_template": "phi_4"})[1] == [
        "dropped     chat_template: phi_4: the job uses the chat template of the base "
        "model; if org/model has none, set dataset.chatTemplate"
    ]
    rows = [{"path": "org/rows", "type": "completion"}]
    assert converted({"chat_template": "chatml", "datasets": rows})[1] == [
        "equivalent  chat_template: chatml: has no effect on rows that are not conversations"
    ]


SUPERVISED = "a FineTuneJob supports only supervised fine-tuning"
TEXT_ONLY = (
    "is not supported: a FineTuneJob trains on text only, and this configuration trains a "
    "multimodal model"
)
SIXTEEN_BITS = (
    "is not supported, because the job itself quantizes the base model: set base_model to a model "
    "with 16-bit weights"
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rl": "dpo"}, f"rl: dpo is not supported: {SUPERVISED}"),
        ({"reward_model": True}, f"reward models are not supported: {SUPERVISED}"),
        ({"process_reward_model": True}, f"reward models are not supported: {SUPERVISED}"),
        *(
            ({key: "x"}, f"{key}: x {TEXT_ONLY}")
            for key in (
                "processor_type",
                "image_size",
                "image_resize_algorithm",
                "freeze_mm_modules",
            )
        ),
        *(
            ({key: "x"}, f"{key}: x {SIXTEEN_BITS}")
            for key in (
                "gptq",
                "model_quantization_config",
                "nvfp4_merge_aware",
                "dsv4_fp4_grouped_mode",
            )
        ),
        (
            {"plugins": ["a.diffusion.B"]},
            f"plugin a.diffusion.B is not supported: {SUPERVISED} of causal models",
        ),
        *(
            (
                {"adapter": adapter},
                f"adapter is {text}, but a FineTuneJob trains only a QLoRA adapter: set "
                "`adapter: qlora`",
            )
            for adapter, text in (
                ("llama-adapter", "llama-adapter"),
                (None, "not set, so Axolotl trains all weights"),
            )
        ),
        (
            {"base_model": "./local"},
            "base_model is './local', which is not a repository on the Hugging Face Hub: set "
            "base_model to a repository, as organization/name",
        ),
        (
            {"base_model": None},
            "base_model is '', which is not a repository on the Hugging Face Hub: set base_model "
            "to a repository, as organization/name",
        ),
        ({"datasets": []}, "datasets is missing or empty: set a dataset with path and type"),
        ({"datasets": ["x"]}, "datasets is missing or empty: set a dataset with path and type"),
        (
            {"datasets": [{"type": "alpaca"}]},
            "datasets[0].path is missing: set it to a dataset repository on the Hugging Face Hub, "
            "as organization/name",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_rejection_names_the_setting_and_the_remediation(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidSpec) as error:
        converted(changes)
    assert str(error.value) == message
