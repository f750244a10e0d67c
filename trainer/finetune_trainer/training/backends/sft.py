"""One training with TRL's trainer, whichever library made the model: on CUDA and on a CPU."""

import gc
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from peft.utils import ModulesToSaveWrapper
from trl.trainer.sft_config import SFTConfig

from finetune_api.v1alpha1.training import Training
from finetune_trainer.checkpointing.adapter_files import WEIGHTS
from finetune_trainer.data.load_tokenizer import load_tokenizer
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.quantization import record
from finetune_trainer.runtime import capabilities
from finetune_trainer.runtime import device as devices
from finetune_trainer.runtime.device import Device
from finetune_trainer.runtime.progress import log
from finetune_trainer.training.backends import Order, TooLarge, Trained, library_arguments
from finetune_trainer.training.backends.trainer import Reporter, Trainer
from finetune_trainer.training.monitor import Monitor

DETERMINISTIC = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "FLASH_ATTENTION_DETERMINISTIC": "1",
    # Otherwise Unsloth sizes the pieces of its loss by the memory that happens to be free.
    "UNSLOTH_CE_LOSS_TARGET_GB": "1",
}
"""What the libraries read before they choose among algorithms."""
KEPT = (
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "optim",
    "seed",
    "bf16",
    "fp16",
    "packing",
)
"""Arguments that no library may change in silence."""


@dataclass(frozen=True, kw_only=True)
class Library:
    """What makes the model. ``load``: the 4-bit base, for a device and an attention kernel."""

    load: Callable[[Order, Device, str], Any]
    adapt: Callable[[Order, Any], Any]
    """Gives that base a fresh adapter."""
    attention: Callable[[Order, Any], str]
    """Tells the kernel that computes the attention of a model."""


def train(order: Order, monitor: Monitor, adapter: Path, library: Library) -> Trained:
    """Train, and save the adapter into ``adapter`` if all steps were done.

    Raises TooLarge where CUDA runs out of memory.
    """
    try:
        return _train(order, monitor, adapter, devices.detect(), library)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        text = f"{peak / 2**30:.1f} GiB were allocated when it ran out"
        error.__traceback__ = None
    # Only now are the model and its activations unreachable.
    release_memory()
    raise TooLarge(text)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether the card had no memory left; not all libraries say it in PyTorch's class."""
    said = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(each in str(error) for each in said)


def release_memory() -> None:
    """Give back to the card what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _train(
    order: Order, monitor: Monitor, adapter: Path, device: Device, library: Library
) -> Trained:
    recipe = order.recipe
    capabilities.check(recipe, device)
    transformers.utils.logging.set_verbosity_error()
    transformers.set_seed(recipe.seed)
    _choose_algorithms(recipe, device)
    attention = capabilities.attention(recipe, device)
    log(
        f"loading the base in {recipe.advanced.quantization.type} on {device.name}, {attention}, "
        f"{order.rung}"
    )
    model = library.load(order, device, attention)
    record.require(model, recipe)
    recorded = record.record(model)
    model = library.adapt(order, model)
    kernel = _kernel(order, library, model)
    _train_in_float32(model, getattr(torch, recipe.advanced.quantization.compute_dtype))
    trainable = sum(each.numel() for each in model.parameters() if each.requires_grad)
    log(f"{trainable / 1e6:.2f} M adapter weights on {len(recorded.digests)} quantised layers")
    trainer = _trainer(order, monitor, model, device)
    trainer.run()
    if trainer.complete:
        trainer.require_finite()
        _save_adapter(order, trainer, adapter)
    return Trained(
        step=trainer.state.global_step,
        complete=trainer.complete,
        quantized=recorded,
        attention=kernel,
        device=device.name,
    )


def _kernel(order: Order, library: Library, model: Any) -> str:
    """Return the attention kernel that trains. Raises InvalidSpec where another was written."""
    kernel = library.attention(order, model)
    log(f"attention is computed by {kernel}")
    advanced = order.recipe.advanced
    if advanced.attn_implementation not in ("auto", kernel):
        raise InvalidSpec(
            f"training.advanced.attnImplementation is {advanced.attn_implementation}, but "
            f"{advanced.backend} would train with {kernel}: set it to auto, or "
            "training.advanced.backend to trl"
        )
    return kernel


def _train_in_float32(model: Any, compute: torch.dtype) -> None:
    """Have all that is trained in float32: in 16 bits, small updates would round to nothing.

    Copies of modules that are trained in full come in the base's type. What an embedding returns is
    rounded, as the base's own is: every layer's input would be twice as large otherwise.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    embedding = model.get_input_embeddings()
    if isinstance(embedding, ModulesToSaveWrapper):
        embedding.register_forward_hook(lambda module, given, found: found.to(compute))


def _choose_algorithms(recipe: Training, device: Device) -> None:
    # Not by SFTConfig: Unsloth's drops it on a CPU, and transformers sets it once in a process.
    torch.backends.cuda.matmul.allow_tf32 = capabilities.uses_tf32(recipe, device)
    torch.use_deterministic_algorithms(recipe.deterministic)
    if recipe.deterministic:
        os.environ.update(DETERMINISTIC)
        log("deterministic algorithms only")


def _trainer(order: Order, monitor: Monitor, model: Any, device: Device) -> Trainer:
    # TRL casts the adapter of a quantised base to bfloat16, which loses small updates: it is put
    # back to float32 as it was made.
    made = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    wanted = library_arguments.arguments(order, device)
    arguments = SFTConfig(**wanted)
    for name in KEPT:
        # On a CPU Unsloth replaces 8-bit optimizers, turns packing off, and avoids bfloat16.
        if getattr(arguments, name) != wanted[name]:
            log(
                f"{name} stays {wanted[name]}: the library would make it {getattr(arguments, name)}"
            )
            setattr(arguments, name, wanted[name])
    trainer = Trainer(
        order=order,
        monitor=monitor,
        model=model,
        args=arguments,
        processing_class=load_tokenizer(order.base),
        train_dataset=library_arguments.as_dataset(order.train, packed=order.packed),
    )
    for name, parameter in model.named_parameters():
        if name in made:
            parameter.data = made[name]
    for name in KEPT:
        if getattr(trainer.args, name) != wanted[name]:
            raise InvalidSpec(
                f"the backend would train with {name} {getattr(trainer.args, name)} instead of "
                f"{wanted[name]}: set training.advanced.backend to trl"
            )
    # The tokenizer has done its part (padding); with it, every checkpoint would hold a copy.
    trainer.processing_class = None
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.add_callback(Reporter(trainer, monitor))
    return trainer


def _save_adapter(order: Order, trainer: Trainer, folder: Path) -> None:
    model = trainer.model
    # PEFT writes the path that the base was loaded from; whoever loads the adapter has another.
    for each in model.peft_config.values():
        each.base_model_name_or_path, each.revision = order.source, order.commit
        if each.modules_to_save:
            # Unsloth made a set of it, whose order differs from process to process.
            each.modules_to_save = sorted(each.modules_to_save)
    model.save_pretrained(folder, save_embedding_layers=False)
    # PEFT's model card would name a path of this volume.
    (folder / "README.md").unlink(missing_ok=True)
    kept = trainer.monitor.evaluations.kept
    if kept is not None and kept.step != trainer.state.global_step:
        shutil.copyfile(order.checkpoint_of(kept.step) / WEIGHTS, folder / WEIGHTS)
