"""The whole effect of a setting of Axolotl: every field that differs, and every note, in full."""

from typing import Any

import pytest
from tests.unit.cli.axolotl.test_axolotl import LIGER, MINIMAL

from finetune_api.crd.resources import NAME_MAX_LENGTH
from finetune_api.validation import findings
from finetune_cli.axolotl.convert import convert
from finetune_trainer.errors import InvalidSpec

ABSENT = object()
LIGER_PLUGIN = (
    "equivalent  plugins: axolotl.integrations.liger.LigerPlugin: a job uses Liger for the loss "
    "only, unless you set ligerLayers: true in the job"
)
NO_LIGER = (
    "equivalent  liger_fused_linear_cross_entropy: true: the job does not use Liger's loss with"
)
NOT_A_FRACTION = (
    "is not in the range of validationFraction, 0 to 0.5, so the job sets validationFraction: 0.05"
)
BEST = (
    "changed     load_best_model_at_end: Axolotl keeps the checkpoint with the lowest held-out "
    "loss unless this is false, but the job keeps the adapter of the last step. To keep the "
    "adapter with the lowest held-out loss, set training.advanced.earlyStoppingPatience in the job"
)
PER_EPOCH = (
    "equivalent  {}: depends on the number of rows, so the job uses the default interval: to "
    "choose the interval, set {}"
)
SAVES = {"advanced.saveSteps": 5}
ONE_GPU = (
    "a job trains on one GPU, but Axolotl multiplies the effective batch size by the number of "
    "GPUs: check training.effectiveBatchSize, and check the memory with ftj estimate"
)


def converted(changes: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of the job by path, and the notes."""
    config = {key: value for key, value in (MINIMAL | changes).items() if value is not None}
    manifest, notes = convert(config)
    assert findings(manifest) == []
    texts = [*map(str, notes)]
    assert len(set(texts)) == len(texts)
    return fields(manifest), texts


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
                    "warmupRatio": 0.03,
                },
            },
        },
    }


RECIPE: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
    (
        {"micro_batch_size": 3, "gradient_accumulation_steps": 4, "batch_size": 12},
        {"effectiveBatchSize": 12, "advanced.microBatchSize": 3},
        [],
    ),
    (
        {"micro_batch_size": "2", "batch_size": 8},
        {"effectiveBatchSize": 2, "advanced.microBatchSize": 2},
        [
            "changed     batch_size: 8: the effective batch is micro_batch_size × "
            "gradient_accumulation_steps = 2, as in Axolotl. To use another one, set "
            "training.effectiveBatchSize"
        ],
    ),
    ({"num_epochs": 2, "seed": 0}, {"epochs": 2, "seed": 0}, []),
    ({"num_epochs": 1.5}, {"epochs": 1.5}, []),
    ({"max_steps": 60, "num_epochs": 3}, {"maxSteps": 60, "epochs": ABSENT}, []),
    ({"max_steps": -1, "num_epochs": 3}, {"epochs": 3}, []),
    (
        {"learning_rate": "1e-5", "sequence_len": 1024},
        {"learningRate": 1e-5, "sequenceLength": 1024},
        [],
    ),
    ({"train_on_inputs": True}, {"trainOn": "all"}, []),
    ({"sample_packing": True}, {"packing": "always"}, []),
    ({"sample_packing": "yes"}, {"packing": "always"}, []),
    ({"sample_packing": "no", "gradient_checkpointing": "on"}, {}, []),
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
    *(
        (
            {"gradient_checkpointing": None, "fsdp_config": {key: True}},
            {},
            [f"changed     fsdp_config: {ONE_GPU}"],
        )
        for key in ("activation_checkpointing", "fsdp_activation_checkpointing")
    ),
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
    (
        {
            "early_stopping_patience": 3,
            "val_set_size": 0.1,
            "eval_steps": 0.2,
            "save_steps": 50,
        },
        {
            "spec.dataset.validationFraction": 0.1,
            "advanced.earlyStoppingPatience": 3,
            "advanced.saveSteps": 50,
        },
        [
            "changed     eval_steps: 0.2: is a fraction of the run, so the job uses the default "
            "interval, once per epoch, at which training can also stop: to choose the interval, "
            "set a number of steps"
        ],
    ),
    (
        {"early_stopping_patience": 3, "val_set_size": 0.1, "evals_per_epoch": 4},
        {"spec.dataset.validationFraction": 0.1, "advanced.earlyStoppingPatience": 3},
        [
            "changed     evals_per_epoch: 4: depends on the number of rows, so the job uses the "
            "default interval, once per epoch, at which training can also stop: to choose the "
            "interval, set eval_steps"
        ],
    ),
    (
        {"early_stopping_patience": 3, "val_set_size": 0.1, "evals_per_epoch": 1},
        {"spec.dataset.validationFraction": 0.1, "advanced.earlyStoppingPatience": 3},
        [],
    ),
    *(
        (
            {"val_set_size": 0.1, "eval_steps": 50, "load_best_model_at_end": best}
            | {"save_steps": saved},
            {
                "spec.dataset.validationFraction": 0.1,
                "advanced.evalSteps": 50,
                "advanced.saveSteps": saved,
            },
            notes,
        )
        for best, saved, notes in (
            (None, 100, [BEST]),
            (True, 100, [BEST.replace("at_end:", "at_end: true:")]),
            (False, 100, []),
            (None, 75, []),
        )
    ),
    (
        {"val_set_size": 0.1, "evals_per_epoch": 4, "saves_per_epoch": 2, "num_epochs": 2},
        {"spec.dataset.validationFraction": 0.1, "epochs": 2},
        [
            BEST,
            PER_EPOCH.format("saves_per_epoch: 2", "save_steps"),
            PER_EPOCH.format("evals_per_epoch: 4", "eval_steps"),
        ],
    ),
    (
        {"val_set_size": 0.1, "evals_per_epoch": 4, "saves_per_epoch": 1, "num_epochs": 1},
        {"spec.dataset.validationFraction": 0.1},
        [
            PER_EPOCH.format("saves_per_epoch: 1", "save_steps"),
            PER_EPOCH.format("evals_per_epoch: 4", "eval_steps"),
        ],
    ),
    ({"load_best_model_at_end": True, "eval_steps": 5, "save_steps": 5}, SAVES, []),
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
        {"warmup_ratio": None},
        {"advanced.warmupRatio": ABSENT},
        [
            "changed     warmup_ratio: is not set: the warmup takes 3 % of all steps, as in "
            "Axolotl, but there it is never longer than 100 steps"
        ],
    ),
    (
        {"warmup_ratio": None, "max_steps": 10_000},
        {"maxSteps": 10_000, "epochs": ABSENT, "advanced.warmupRatio": 0.01},
        [],
    ),
    (
        {"warmup_ratio": None, "warmup_steps": 10},
        {"advanced.warmupRatio": ABSENT, "advanced.warmupSteps": 10},
        [],
    ),
    (
        {"adam_beta1": 0.8, "adam_beta2": "0.95", "adam_epsilon": 1e-5},
        {
            "advanced.adamBeta1": 0.8,
            "advanced.adamBeta2": 0.95,
            "advanced.adamEpsilon": 1e-5,
        },
        [],
    ),
    ({"adam_eps": 1e-7}, {"advanced.adamEpsilon": 1e-7}, []),
    ({"cosine_min_lr_ratio": 0.1}, {"advanced.minLearningRateRatio": 0.1}, []),
    (
        {"warmup_ratio": None, "warmup_steps": 1, "max_steps": 3000},
        {
            "maxSteps": 3000,
            "epochs": ABSENT,
            "advanced.warmupRatio": ABSENT,
            "advanced.warmupSteps": 1,
        },
        [],
    ),
    (
        {"warmup_ratio": None, "warmup_steps": 0.1, "max_steps": 50},
        {"maxSteps": 50, "epochs": ABSENT, "advanced.warmupRatio": 0.1},
        [],
    ),
    (
        {"warmup_ratio": None, "warmup_steps": 0.1},
        {"advanced.warmupRatio": 0.1},
        [],
    ),
    (
        {"warmup_ratio": None, "warmup_steps": 60, "max_steps": 100},
        {
            "maxSteps": 100,
            "epochs": ABSENT,
            "advanced.warmupRatio": ABSENT,
            "advanced.warmupSteps": 60,
        },
        [],
    ),
    (
        {"warmup_ratio": None, "warmup_steps": 0, "max_steps": 100},
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
            "changed     warmup_ratio: 0.51: exceeds half of all steps, so the job sets "
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
    ({"tf32": "auto"}, {}, []),
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


WEIGHT = (
    "the job sets weight: {}. Each epoch uses this share of the rows, drawn with training.seed; "
    "the held-out rows are drawn from all rows of the split"
)
LOCAL = (
    "is not a hub repository, so the job reads the rows from a ConfigMap: create it (kubectl "
    "create configmap rows --from-file=rows.jsonl), or put the rows into a dataset repository and "
    "set source to hf://organization/name"
)
PIECES = (
    "Axolotl cuts a long text into pieces of sequence_len tokens and trains on all pieces. The job "
    "leaves out a text that is longer than training.sequenceLength, or cuts off its end "
    "(training.advanced.overlong): split long texts in the dataset"
)
CUSTOM = (
    "is a custom prompt, but the job renders instruction and input as promptTemplate says: with "
    "the chat template of the base model, or with the Alpaca prompt. To use a prompt of your own, "
    "set promptFormat"
)
ALPACA = (
    "Axolotl uses the Alpaca prompt even if the model has a chat template, so the job sets "
    "promptTemplate: alpaca. To use the chat template of the model, remove promptTemplate"
)
DATASET: dict[str, Any] = {"path": "org/rows", "type": "chat_template"}


DATASETS: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
    (
        {"shards": 8, "shards_idx": 0, "preprocess_shards": 2},
        {"format": "messages", "weight": 0.125},
        [f"changed     datasets[0].shards: 8: {WEIGHT.format(0.125)}"],
    ),
    ({"shards": 1}, {"format": "messages"}, []),
    (
        {"split": "train[:10%]"},
        {"format": "messages", "split": "train", "weight": 0.1},
        [f"changed     datasets[0].split: train[:10%]: {WEIGHT.format(0.1)}"],
    ),
    (
        {"split": "train[:50%]", "shards": 3},
        {"format": "messages", "split": "train", "weight": 0.1667},
        [
            f"changed     datasets[0].split: train[:50%]: {WEIGHT.format(0.1667)}",
            f"changed     datasets[0].shards: 3: {WEIGHT.format(0.1667)}",
        ],
    ),
    ({"split": "test"}, {"format": "messages", "split": "test"}, []),
    ({"name": "main"}, {"format": "messages", "config": "main"}, []),
    (
        {"data_files": ["a.jsonl", "b.jsonl"]},
        {"format": "messages"},
        [
            "dropped     datasets[0].data_files: a job reads all files of a split: put these "
            "files into a repository of their own, and set source to that repository"
        ],
    ),
    ({"path": "hf://org/rows"}, {"format": "messages"}, []),
    (
        {"path": "s3://bucket/folder/rows.jsonl"},
        {"source": "s3://bucket/folder/rows.jsonl", "format": "messages"},
        [
            "changed     datasets[0].path: s3://bucket/folder/rows.jsonl: the job does not use "
            "the credentials of your environment: set s3.secretRef or "
            "access.serviceAccountName in the job, unless the bucket is public"
        ],
    ),
    *(
        (
            rows,
            {"source": "configmap://rows/rows.jsonl", "format": "messages"},
            [f"dropped     datasets[0].path: {rows['path']}: {LOCAL}"],
        )
        for rows in (
            {"path": "rows.jsonl"},
            {"path": "data/rows.parquet"},
            {"path": "data/rows.json.gz"},
            {"path": "data/rows", "ds_type": "json"},
            {"path": "/data/rows", "data_files": ["a.jsonl"]},
        )
    ),
    ({"revision": 7}, {"format": "messages", "revision": "7"}, []),
    (
        {
            "message_field_role": "from",
            "message_field_content": "value",
            "field_tools": "functions",
        },
        {"format": "sharegpt", "columns": {"messages": "messages", "tools": "functions"}},
        [],
    ),
    (
        {"path": "./rows.jsonl", "split": "train[:5]"},
        {"source": "configmap://rows/rows.jsonl", "format": "messages", "maxSamples": 5},
        [f"dropped     datasets[0].path: ./rows.jsonl: {LOCAL}"],
    ),
    (
        {"type": "completion", "field": "body"},
        {"format": "text", "columns": {"text": "body"}},
        [f"changed     datasets[0].type: completion: {PIECES}"],
    ),
    (
        {"type": "pretrain"},
        {"format": "text"},
        [f"changed     datasets[0].type: pretrain: {PIECES}"],
    ),
    (
        {"type": {"field_instruction": "q", "field_input": "i", "field_output": "a"}},
        {
            "format": "alpaca",
            "columns": {"instruction": "q", "input": "i", "output": "a"},
        },
        [f"dropped     datasets[0].type: {CUSTOM}"],
    ),
    *(
        (
            {"type": kind},
            {"format": "alpaca", "promptTemplate": "alpaca"},
            [f"equivalent  datasets[0].type: {kind}: {ALPACA}"],
        )
        for kind in ("alpaca", "alpaca:instruct", "alpaca_instruct.load")
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
]


@pytest.mark.parametrize(
    ("rows", "expected", "notes"),
    DATASETS,
    ids=lambda value: str(value)[:40],
)
def test_setting_of_a_dataset_is_converted_with_these_notes(
    rows: dict[str, Any], expected: dict[str, Any], notes: list[str]
) -> None:
    manifest, found = convert(MINIMAL | {"datasets": [DATASET | rows]})
    standard = {"source": "hf://org/rows", "validationFraction": 0.0}
    if "weight" in expected:
        assert manifest["spec"]["datasets"] == [{"name": "rows", **standard, **expected}]
    else:
        assert manifest["spec"]["dataset"] == standard | expected
    assert findings(manifest) == []
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
        f"changed     datasets[0].type: completion: {PIECES}",
        "equivalent  chat_template: chatml: has no effect on rows that are not conversations",
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


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"rl": "dpo"}, f"rl: dpo is not supported: {SUPERVISED}"),
    ({"reward_model": True}, f"reward_model: true is not supported: {SUPERVISED}"),
    (
        {"process_reward_model": True},
        f"process_reward_model: true is not supported: {SUPERVISED}",
    ),
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
        f"plugins contains a.diffusion.B, which is not supported: {SUPERVISED} of causal models",
    ),
    *(
        (
            {"adapter": adapter},
            f"adapter{text}, but a FineTuneJob trains only a QLoRA adapter: set `adapter: qlora`",
        )
        for adapter, text in (
            ("llama-adapter", ": llama-adapter is not supported"),
            (None, " is not set, so Axolotl trains all weights"),
        )
    ),
    (
        {"base_model": "./local"},
        "base_model: ./local is not a repository on the Hugging Face Hub: set base_model to a "
        "repository, as organization/name",
    ),
    (
        {"base_model": None},
        "base_model is not a repository on the Hugging Face Hub: set base_model to a "
        "repository, as organization/name",
    ),
    ({"datasets": []}, "datasets must be a list of datasets: set path and type of one"),
    *(
        ({"datasets": found}, "datasets must be a list of datasets: set path and type of one")
        for found in (None, ["x"], [{"path": "a/b", "type": "alpaca"}, "x"])
    ),
    (
        {"datasets": [{"path": "a/b"}]},
        "datasets[0].type is missing: set it, such as chat_template or alpaca",
    ),
    *(
        (
            {"datasets": [{"path": "org/rows", "type": kind}]},
            f"datasets[0].type: {kind} is not supported, because a job cannot render the "
            "prompt of this type. Set type to chat_template (conversations), alpaca "
            "(instruction, input and output) or completion (text), and convert the rows if "
            "their columns differ",
        )
        for kind in (
            "alpaca:chat",
            "alpaca:chatml",
            "alpaca:phi",
            "alpaca_chat.load_qa",
            "alpaca_w_system.load_open_orca",
            "alpaca_instruct.load_no_prompt",
            "gpteacher",
            "oasst",
            "input_output",
            "chat_template.argilla",
            "sharegpt.load_role",
        )
    ),
    (
        {"datasets": [DATASET | {"path": "https://host/rows.jsonl"}]},
        "datasets[0].path: https://host/rows.jsonl is not supported, because a job needs the "
        "SHA-256 digest of a file at an https:// URL. Set path to the name of a local file, "
        "such as rows.jsonl, and replace source in the FineTuneJob by the URL and the field "
        "sha256",
    ),
    *(
        (
            {"datasets": [DATASET | {"path": path}]},
            f"datasets[0].path: {path} is not supported: copy the rows to a dataset "
            "repository on the Hugging Face Hub (organization/name) or to an S3 bucket "
            "(s3://bucket/path)",
        )
        for path in ("gs://bucket/rows.jsonl", "az://a/b", "s3://UPPER/rows")
    ),
    *(
        (
            {"datasets": [DATASET | {"split": split}]},
            f"datasets[0].split: {split} is not supported, because a job reads a whole split, "
            "its first rows or a share of its rows: for the first 1000 rows, write "
            "train[:1000]; for a tenth of the rows, write train[:10%]",
        )
        for split in ("train[10%:]", "train[:101%]", "train+test", "train[-5:]")
    ),
    (
        {"chat_template_jinja": "template.jinja"},
        "chat_template_jinja: template.jinja names a file: write the text of the template instead",
    ),
    (
        {"datasets": [DATASET | {"roles": {"user": "human"}}]},
        "datasets[0].roles is not a map of lists: write the names of each role as a list, such "
        "as assistant: [gpt]",
    ),
    *(
        (
            {"datasets": [DATASET | {key: value}]},
            f"datasets[0].{key}{shown} is not {kind}: write {kind}, or remove {key}",
        )
        for key, value, shown, kind in (
            ("roles", ["a", "b"], "", "a map"),
            ("path", ["a/b"], "", "a text"),
            ("roles_to_train", [1], "", "a list of names"),
            ("drop_system_message", "maybe", ": maybe", "true or false"),
        )
    ),
    *(
        (
            {key: value},
            f"{key}{shown} is not {kind}: write {kind}, or remove {key}",
        )
        for key, value, shown, kind in (
            ("micro_batch_size", "auto", ": auto", "an integer"),
            ("micro_batch_size", 1.5, ": 1.5", "an integer"),
            ("lora_r", "sixteen", ": sixteen", "an integer"),
            ("learning_rate", [1e-4], "", "a number"),
            ("learning_rate", "nan", ": nan", "a number"),
            ("sequence_len", True, ": true", "an integer"),
            ("bnb_config_kwargs", "nf4", ": nf4", "a map"),
            ("tf32", "fast", ": fast", "true or false"),
        )
    ),
    (
        {"learning_rate": -1},
        "the configuration converts to an invalid FineTuneJob: "
        "spec.training.learningRate: Input should be greater than 0 (it is -1.0)",
    ),
    (
        {"datasets": [{"type": "alpaca"}]},
        "datasets[0].path is missing: set it to a dataset repository on the Hugging Face Hub, "
        "as organization/name",
    ),
]


@pytest.mark.parametrize(
    ("changes", "message"),
    REFUSALS,
    ids=lambda value: str(value)[:40],
)
def test_rejection_names_the_setting_and_the_remediation(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidSpec) as error:
        converted(changes)
    assert str(error.value) == message
