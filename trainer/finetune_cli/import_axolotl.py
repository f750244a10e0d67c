"""``ftj import-axolotl``: prints a FineTuneJob to stdout and warnings to stderr."""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from finetune_api import API_VERSION, KIND
from finetune_api.crd.definition import NAME_MAX_LENGTH
from finetune_api.defaulting import InvalidSpec as Unresolvable
from finetune_api.defaulting import builtin_defaults, resolve
from finetune_api.v1alpha1.sources import HF_SOURCE
from finetune_cli import job_file
from finetune_cli.axolotl import data, recipe
from finetune_cli.axolotl.reader import Settings
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.runtime.signals import StopRequest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="Axolotl configuration (YAML); - for stdin"
    )
    parser.add_argument(
        "--name", help="name of the FineTuneJob; default: from output_dir or base_model"
    )


def run(options: argparse.Namespace, _: StopRequest) -> int:
    """Print the manifest. Raises InvalidSpec if a FineTuneJob cannot run the configuration."""
    documents = job_file.load(options.file)
    if len(documents) != 1:
        raise InvalidSpec(
            f"{options.file} is not an Axolotl configuration: it must contain one YAML object"
        )
    manifest, warnings = convert(documents[0], name=options.name)
    print(yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True, width=100), end="")
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def convert(config: dict[str, Any], *, name: str | None = None) -> tuple[dict[str, Any], list[str]]:
    """Return a valid FineTuneJob and warnings about the conversion. Raises InvalidSpec."""
    warnings: list[str] = []
    settings = Settings(config, warnings)
    _refuse_other_trainings(settings)
    _drop_unsupported(settings)
    model = _model(settings)
    rows = data.dataset(settings, warnings)
    own = data.evaluation_dataset(settings, warnings)
    held_out = own is not None or rows["validationFraction"] > 0
    spec = {
        "model": model,
        "dataset": rows,
        **({"evaluation": {"dataset": own}} if own else {}),
        "training": recipe.training(settings, held_out=held_out),
    }
    settings.finish()
    try:
        resolve(spec, builtin_defaults())
    except Unresolvable as error:
        raise InvalidSpec(
            f"the configuration converts to an invalid FineTuneJob: {error}"
        ) from None
    job_name = name or _name(config)
    manifest = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": job_name},
        "spec": spec,
    }
    return manifest, warnings


def _refuse_other_trainings(settings: Settings) -> None:
    rl = settings.take("rl")
    if rl:
        raise InvalidSpec(f"rl: {rl} is not supported: a FineTuneJob is supervised fine-tuning")
    if settings.take("reward_model") or settings.take("process_reward_model"):
        raise InvalidSpec(
            "reward models are not supported: a FineTuneJob is supervised fine-tuning"
        )
    adapter = settings.take("adapter")
    if adapter not in ("lora", "qlora"):
        raise InvalidSpec(
            f"adapter is {adapter or 'not set, which trains all weights'}: a FineTuneJob "
            "trains a QLoRA adapter; set adapter to qlora"
        )
    four, eight = settings.take("load_in_4bit"), settings.take("load_in_8bit")
    if eight:
        settings.warn(
            "load_in_8bit", "8-bit loading is not supported: the base is loaded in 4 bits (NF4)"
        )
    elif not four:
        settings.warn(
            "adapter",
            "without load_in_4bit Axolotl loads the base in 16 bits; the job uses 4 bits (NF4)",
        )


def _drop_unsupported(settings: Settings) -> None:
    one_gpu = "is not supported: a job trains on one GPU"
    settings.drop(f"DeepSpeed {one_gpu}", "deepspeed")
    settings.drop(f"FSDP {one_gpu}", "fsdp", "fsdp_config", "fsdp_final_state_dict_type")
    settings.drop(
        "is ignored: models that need their own Python code are rejected", "trust_remote_code"
    )
    settings.drop("is ignored: the backend has its own memory-saving loss", "plugins")
    settings.drop(
        "is ignored: the backend chooses its kernels",
        *("cut_cross_entropy", "liger_rope", "liger_rms_norm", "liger_glu_activation"),
        *("liger_layer_norm", "liger_fused_linear_cross_entropy", "chunked_cross_entropy"),
        *("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "torch_compile"),
    )
    settings.drop(
        "is ignored: status and the metrics port report the loss",
        *("wandb_project", "use_wandb", "mlflow_experiment_name", "use_mlflow", "use_tensorboard"),
    )
    settings.take("wandb_entity", "wandb_watch", "wandb_name", "wandb_log_model", "wandb_run_id")
    settings.drop("is ignored: a job does not publish to a hub", "hub_model_id", "hub_strategy")
    settings.drop("is ignored: the tokenizer of the base is used", "special_tokens", "tokens")
    template = settings.take("chat_template")
    if template not in (None, "tokenizer_default", "jinja"):
        settings.warn("chat_template", "is ignored: the chat template of the base is used")


def _model(settings: Settings) -> dict[str, Any]:
    name = str(settings.take("base_model") or "")
    source = name if name.startswith("hf://") else f"hf://{name}"
    if not re.fullmatch(HF_SOURCE, source):
        raise InvalidSpec(
            f"base_model is {name!r}: set a repository on the Hugging Face Hub, as "
            "organization/name"
        )
    revision = settings.take("revision_of_model")
    return {"source": source, **({"revision": str(revision)} if revision else {})}


def _name(config: dict[str, Any]) -> str:
    """Return a name for the job. It must be a DNS label, since a Service gets the same name."""
    wanted = str(config.get("output_dir") or "").rstrip("/").rsplit("/", 1)[-1]
    wanted = wanted or str(config.get("base_model")).rsplit("/", 1)[-1]
    plain = re.sub(r"[^a-z0-9]+", "-", wanted.lower()).strip("-").lstrip("0123456789-")
    return plain[:NAME_MAX_LENGTH].strip("-") or "imported"
