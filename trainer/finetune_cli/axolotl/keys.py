"""Settings of Axolotl that a FineTuneJob does not have, with the reason and the severity."""

from collections.abc import Iterator

from finetune_cli.axolotl.notes import Severity

MEANINGLESS = frozenset(
    {
        # Paths and process settings of Axolotl, which a job on its own volume does not need.
        "output_dir", "dataset_prepared_path", "skip_prepare_dataset",
        "model_type", "tokenizer_type", "tokenizer_use_fast", "tokenizer_legacy",
        "is_llama_derived_model", "is_mistral_derived_model", "strict", "debug", "local_rank",
        "save_safetensors", "dataset_num_proc", "dataset_processes",
        "gradient_checkpointing_kwargs", "auto_resume_from_checkpoints",
        "eval_batch_size", "eval_sample_packing", "eval_table_size", "eval_max_new_tokens",
        "shuffle_merged_datasets", "logging_dir", "low_cpu_mem_usage", "remove_unused_columns",
        "experimental_skip_move_to_device", "include_tokens_per_second", "dataloader_num_workers",
        "hf_use_auth_token", "test_value", "ddp_find_unused_parameters", "lora_fan_in_fan_out",
        "do_causal_lm_eval", "eval_causal_lm_metrics", "wandb_entity", "wandb_watch", "wandb_name",
        "wandb_log_model", "wandb_run_id",
        # Attention in other kernels gives the same result.
        "flash_attention", "xformers_attention", "flex_attn_compile_kwargs", "flash_attn_rms_norm",
    }
)  # fmt: skip
"""Settings without an effect on a job. They get no note."""

_KERNELS = "the backend chooses its kernels"
_LOSS = "the status and the metrics of a job contain the loss"
_MEMORY = "the backend decides whether to offload activations"
_ONE_GPU = (
    "a job trains on one GPU, but Axolotl multiplies the effective batch size by the number of "
    "GPUs: check training.effectiveBatchSize, and check the memory with ftj estimate"
)
_ORDER = "the job shuffles the rows"
_LIGER = "a job uses Liger for the loss only, unless you set ligerLayers: true in the job"

EXACT: dict[str, tuple[Severity, str]] = {
    **dict.fromkeys(
        (
            "cut_cross_entropy", "chunked_cross_entropy", "torch_compile", "torch_compile_mode",
            "use_kernels", "experts_implementation", "fused_attn_kernel", "gemma4_hybrid_attn_impl",
            "use_scattermoe", "use_sonicmoe", "use_dsv4_kernels", "use_glm_dsa_kernels",
            "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel",
        ),
        (Severity.EQUIVALENT, _KERNELS),
    ),
    **dict.fromkeys(("activation_offloading",), (Severity.EQUIVALENT, _MEMORY)),
    **dict.fromkeys(("use_wandb", "use_mlflow", "use_tensorboard"), (Severity.EQUIVALENT, _LOSS)),
    **dict.fromkeys(
        ("deepspeed", "dp_shard_size", "use_ray", "ray_num_workers", "context_parapllel_size"),
        (Severity.CHANGED, _ONE_GPU),
    ),
    **dict.fromkeys(
        ("curriculum_sampling", "sample_packing_sequentially"), (Severity.DROPPED, _ORDER)
    ),
    "trust_remote_code": (
        Severity.DROPPED,
        "the prepare stage rejects a model that needs its own Python code",
    ),
    "hub_model_id": (
        Severity.DROPPED,
        "a job does not publish to a hub: copy the model with ftj copy",
    ),
    "hub_strategy": (Severity.EQUIVALENT, "a job does not publish to a hub"),
    "tokens": (Severity.DROPPED, "a job adds no tokens to the vocabulary"),
    "eot_tokens": (
        Severity.DROPPED,
        "a job ignores this list: the loss covers the end token that the chat template writes",
    ),
    "unfrozen_parameters": (
        Severity.DROPPED,
        "only the modules in training.lora.modulesToSave are trained in full",
    ),
    **dict.fromkeys(
        ("lora_model_dir", "resume_from_checkpoint"),
        (Severity.DROPPED, "a job starts with a new adapter"),
    ),
    "group_by_length": (Severity.CHANGED, _ORDER),
    "loraplus_lr_embedding": (
        Severity.EQUIVALENT,
        "this rate applies only to an adapter on the embedding, which a job does not have",
    ),
    "lora_target_parameters": (
        Severity.DROPPED,
        "a job adapts linear layers only, not the parameters of experts",
    ),
    "quantize_moe_experts": (
        Severity.DROPPED,
        "a job quantizes only linear layers, so experts that are stored as one parameter stay in "
        "16 bits per weight",
    ),
}  # fmt: skip
"""Setting → severity and reason."""

PREFIXES: dict[str, tuple[Severity, str]] = {
    **dict.fromkeys(
        ("wandb_", "mlflow_", "comet_", "swanlab_", "use_swanlab", "trackio_", "otel_", "use_otel"),
        (Severity.EQUIVALENT, _LOSS),
    ),
    **dict.fromkeys(
        ("fsdp", "ddp_", "expert_parallel", "context_parallel", "tensor_parallel"),
        (Severity.CHANGED, _ONE_GPU),
    ),
    "liger_": (
        Severity.EQUIVALENT,
        _LIGER,
    ),
    "loss_watchdog_": (
        Severity.DROPPED,
        "a job has no loss threshold: if the loss is not finite, the job retries once from a "
        "checkpoint. If the loss is not finite again, the job fails",
    ),
    "relora": (Severity.DROPPED, "a job never merges its adapter during the training"),
    "jagged_restart_": (Severity.DROPPED, "a job has no jagged learning rate schedule"),
}
"""Begin of a setting → severity and reason."""

DATASET: dict[str, tuple[Severity, str]] = {
    "name": (
        Severity.DROPPED,
        "only a repository on the hub has configurations",
    ),
}
"""Setting of a dataset → severity and reason."""

UNKNOWN = (Severity.DROPPED, "a FineTuneJob has no such setting")

PLUGINS: dict[str, tuple[Severity, str]] = {
    "cut_cross_entropy": (Severity.EQUIVALENT, "the backend has its own memory-saving loss"),
    "liger": (
        Severity.EQUIVALENT,
        _LIGER,
    ),
    "kernels": (Severity.EQUIVALENT, _KERNELS),
    "swanlab": (Severity.EQUIVALENT, _LOSS),
    "expert_parallel": (Severity.CHANGED, _ONE_GPU),
}
"""Package of a plugin in ``axolotl.integrations`` → severity and reason."""


def verdict(key: str, *, of_dataset: bool) -> tuple[Severity, str]:
    """Return severity and reason of a setting that the conversion does not use."""
    if of_dataset:
        return DATASET.get(key, UNKNOWN)
    if key in EXACT:
        return EXACT[key]
    return next((entry for prefix, entry in PREFIXES.items() if key.startswith(prefix)), UNKNOWN)


def plugins(names: list[str]) -> Iterator[tuple[str, Severity, str]]:
    """Yield name, severity and reason of each plugin."""
    for name in names:
        package = name.removeprefix("axolotl.integrations.").split(".")[0]
        yield (name, *PLUGINS.get(package, (Severity.DROPPED, "a job has no plugins")))
