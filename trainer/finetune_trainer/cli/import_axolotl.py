"""``import-axolotl``: the manifest on stdout, what to know about it on stderr."""

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
from finetune_trainer.axolotl import data, recipe
from finetune_trainer.axolotl.reader import Settings
from finetune_trainer.cli import job_file
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.runtime.signals import StopRequest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("file", type=Path, help="the Axolotl configuration")
    parser.add_argument("--name", help="name of the job; otherwise from output_dir or the model")


def run(options: argparse.Namespace, _: StopRequest) -> int:
    """Print the manifest. Raises InvalidSpec where there is nothing that a job could train."""
    documents = job_file.load(options.file)
    if len(documents) != 1:
        raise InvalidSpec(f"{options.file} is no Axolotl configuration: it holds no YAML object")
    manifest, warnings = convert(documents[0], name=options.name)
    print(yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True, width=100), end="")
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def convert(config: dict[str, Any], *, name: str | None = None) -> tuple[dict[str, Any], list[str]]:
    """Return a FineTuneJob that resolves, and the warnings. Raises InvalidSpec."""
    warnings: list[str] = []
    settings = Settings(config, warnings)
    _refuse_other_trainings(settings)
    _name_what_is_out_of_scope(settings)
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
        raise InvalidSpec(f"the configuration makes no valid job: {error}") from None
    chosen = name or _name(config)
    manifest = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": chosen}, "spec": spec}
    return manifest, warnings


def _refuse_other_trainings(settings: Settings) -> None:
    rl = settings.take("rl")
    if rl:
        raise InvalidSpec(f"rl: {rl} is another kind of training: a FineTuneJob is supervised")
    if settings.take("reward_model") or settings.take("process_reward_model"):
        raise InvalidSpec("a reward model is another kind of training: a FineTuneJob is supervised")
    adapter = settings.take("adapter")
    if adapter not in ("lora", "qlora"):
        raise InvalidSpec(
            f"adapter is {adapter or 'not written, which trains all weights'}: a FineTuneJob "
            "trains a QLoRA adapter"
        )
    four, eight = settings.take("load_in_4bit"), settings.take("load_in_8bit")
    if eight:
        settings.warn(
            "load_in_8bit", "8-bit loading is out of scope: the base is loaded in 4 bits (NF4)"
        )
    elif not four:
        settings.warn(
            "adapter", "without load_in_4bit the base is in 16 bits; here it is loaded in 4 (NF4)"
        )


def _name_what_is_out_of_scope(settings: Settings) -> None:
    one_gpu = "is out of scope: a job trains on one GPU"
    settings.drop(f"DeepSpeed {one_gpu}", "deepspeed")
    settings.drop(f"FSDP {one_gpu}", "fsdp", "fsdp_config", "fsdp_final_state_dict_type")
    settings.drop(
        "is never run: models that need code of their own are refused", "trust_remote_code"
    )
    settings.drop("the loss that saves memory is the backend's own", "plugins")
    settings.drop(
        "is the backend's own choice",
        *("cut_cross_entropy", "liger_rope", "liger_rms_norm", "liger_glu_activation"),
        *("liger_layer_norm", "liger_fused_linear_cross_entropy", "chunked_cross_entropy"),
        *("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "torch_compile"),
    )
    settings.drop(
        "tracking does not carry over: the loss is in status and on the metrics port",
        *("wandb_project", "use_wandb", "mlflow_experiment_name", "use_mlflow", "use_tensorboard"),
    )
    settings.take("wandb_entity", "wandb_watch", "wandb_name", "wandb_log_model", "wandb_run_id")
    settings.drop("publishing does not carry over", "hub_model_id", "hub_strategy")
    settings.drop("the tokenizer stays as the model ships it", "special_tokens", "tokens")
    template = settings.take("chat_template")
    if template not in (None, "tokenizer_default", "jinja"):
        settings.warn("chat_template", "the base's own chat template is used")


def _model(settings: Settings) -> dict[str, Any]:
    name = str(settings.take("base_model") or "")
    source = name if name.startswith("hf://") else f"hf://{name}"
    if not re.fullmatch(HF_SOURCE, source):
        raise InvalidSpec(
            f"base_model is {name!r}: name a repository of the hub, as organisation/name"
        )
    revision = settings.take("revision_of_model")
    return {"source": source, **({"revision": str(revision)} if revision else {})}


def _name(config: dict[str, Any]) -> str:
    """Return a name for the job: a Service is named after it, so it is a DNS label."""
    wanted = str(config.get("output_dir") or "").rstrip("/").rsplit("/", 1)[-1]
    wanted = wanted or str(config.get("base_model")).rsplit("/", 1)[-1]
    plain = re.sub(r"[^a-z0-9]+", "-", wanted.lower()).strip("-").lstrip("0123456789-")
    return plain[:NAME_MAX_LENGTH].strip("-") or "imported"
