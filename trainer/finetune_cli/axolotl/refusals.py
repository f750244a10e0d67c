"""Rejects configurations that a FineTuneJob cannot run."""

from finetune_cli.axolotl.reader import Settings

MULTIMODAL = ("processor_type", "image_size", "image_resize_algorithm", "freeze_mm_modules")
QUANTIZED = ("gptq", "model_quantization_config", "nvfp4_merge_aware", "dsv4_fp4_grouped_mode")
REWARD_MODELS = ("reward_model", "process_reward_model")
SUPERVISED = "a FineTuneJob supports only supervised fine-tuning"


def refuse_other_trainings(settings: Settings) -> None:
    """Raise Refusal if the configuration is not the QLoRA training of a text model."""
    if settings.take("rl"):
        raise settings.refusal("rl", f"is not supported: {SUPERVISED}")
    for key in REWARD_MODELS:
        if settings.take(key):
            raise settings.refusal(key, f"is not supported: {SUPERVISED}")
    for key in MULTIMODAL:
        if settings.take(key):
            raise settings.refusal(
                key,
                "is not supported: a FineTuneJob trains on text only, and this configuration "
                "trains a multimodal model",
            )
    for key in QUANTIZED:
        if settings.take(key):
            raise settings.refusal(
                key,
                "is not supported, because the job itself quantizes the base model: set base_model "
                "to a model with 16-bit weights",
            )
    for plugin in settings.list_of_names("plugins"):
        if "diffusion" in plugin:
            raise settings.refusal(
                "plugins",
                f"contains {plugin}, which is not supported: {SUPERVISED} of causal models",
            )
    adapter = settings.take("adapter")
    if adapter not in ("lora", "qlora"):
        problem = "is not supported" if adapter else "is not set, so Axolotl trains all weights"
        raise settings.refusal(
            "adapter",
            f"{problem}, but a FineTuneJob trains only a QLoRA adapter: set `adapter: qlora`",
        )
    _note_loading(settings)


def _note_loading(settings: Settings) -> None:
    four = settings.flag("load_in_4bit")
    if settings.flag("load_in_8bit"):
        settings.changed("load_in_8bit", "the job loads the base model in 4 bits (NF4)")
    elif not four:
        settings.changed(
            "adapter",
            "without load_in_4bit, Axolotl loads the base model in 16 bits; the job loads it in 4 "
            "bits (NF4)",
        )
