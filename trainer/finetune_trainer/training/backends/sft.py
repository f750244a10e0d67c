"""One training with TRL's SFTTrainer, for models of any backend, on CUDA or on a CPU."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from peft.utils import ModulesToSaveWrapper
from transformers.integrations.neftune import activate_neftune
from trl.trainer.sft_config import SFTConfig

from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.attention import packed_attention
from finetune_trainer.attention.kernels import FLASH, VARLEN
from finetune_trainer.checkpointing.adapter_files import WEIGHTS
from finetune_trainer.compatibility import liger
from finetune_trainer.data.load_tokenizer import load_tokenizer
from finetune_trainer.devices import capabilities, cpu_bfloat16, paged_optimizer
from finetune_trainer.devices import device as devices
from finetune_trainer.devices.capabilities import Device
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.quantization import quant_state
from finetune_trainer.runtime.log import log
from finetune_trainer.training.backends import (
    OutOfMemory,
    TrainOutput,
    TrainRequest,
    held_out,
    library_arguments,
    loss_chunks,
)
from finetune_trainer.training.backends.trainer import Trainer
from finetune_trainer.training.loop import checkpoint_folder, resume
from finetune_trainer.training.loop.monitor import Monitor
from finetune_trainer.training.loop.monitor_callback import MonitorCallback

MAY_CHANGE = frozenset(
    {
        # transformers makes it a list.
        "report_to",
        # Unsloth's checkpointing is reentrant only.
        "gradient_checkpointing_kwargs",
    }
)
"""Arguments that a library may change, because the adapter does not depend on them."""


@dataclass(frozen=True, kw_only=True)
class ModelFactory:
    """How a backend makes the model. ``load``: the 4-bit base for a device and attention kernel."""

    choose: Callable[[TrainRequest, Device], str]
    """Returns the attention implementation to load the model with."""
    load: Callable[[TrainRequest, Device, str], Any]
    adapt: Callable[[TrainRequest, Any], Any]
    """Adds a new adapter to that base."""
    attention: Callable[[TrainRequest, Any], str]
    """Returns the kernel that computes the attention of a model."""


def train(
    request: TrainRequest, monitor: Monitor, adapter: Path, factory: ModelFactory
) -> TrainOutput:
    """Train, and save the adapter into ``adapter`` if all steps are done.

    Raise OutOfMemory if CUDA runs out of memory.
    """
    try:
        return _train(request, monitor, adapter, devices.detect(), factory)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        text = f"{peak / 2**30:.1f} GiB were allocated"
        error.__traceback__ = None
    # The model and its activations are unreachable only after the except block.
    devices.release_memory()
    raise OutOfMemory(text)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Report whether the GPU ran out of memory; not all libraries raise PyTorch's class."""
    texts = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in texts)


def _train(
    request: TrainRequest, monitor: Monitor, adapter: Path, device: Device, factory: ModelFactory
) -> TrainOutput:
    capabilities.check(request.recipe, device)
    recipe, notes = paged_optimizer.fitting(request.recipe, device)
    request = replace(request, recipe=recipe)
    for note in notes:
        log(note)
    liger.check_device(recipe, cuda=device.cuda)
    transformers.utils.logging.set_verbosity_error()
    transformers.set_seed(recipe.seed)
    _choose_algorithms(recipe, device)
    cpu_bfloat16.avoid_emulation(device)
    loss_chunks.fit(device)
    attention = factory.choose(request, device)
    log(
        f"loading the base model in {recipe.advanced.quantization.type} on {device.name} with the "
        f"attention kernel {attention} and {request.memory}"
    )
    model = factory.load(request, device, attention)
    quant_state.require_quantization(model, recipe)
    recorded = quant_state.record_quantization(model)
    model = factory.adapt(request, model)
    kernel = _kernel(request, factory, model)
    _train_in_float32(model, getattr(torch, recipe.advanced.quantization.compute_dtype))
    if request.start is not None and request.checkpoint is None:
        # A checkpoint has continued from it already.
        checkpoint_folder.load_start(model, request.start)
        log("training continues from the adapter in training.startFrom")
    trainable = sum(
        parameter.numel() for parameter in model.parameters() if parameter.requires_grad
    )
    log(f"trainable parameters: {trainable / 1e6:.2f} M; quantized layers: {len(recorded.digests)}")
    liger.apply(recipe, model)
    trainer = _trainer(request, model, device)
    callback = _callback(request, monitor, trainer)
    trainer.add_callback(callback)
    if recipe.advanced.neftune_noise_alpha is not None:
        # Not via SFTConfig: Unsloth may add the noise of that argument twice.
        activate_neftune(model, recipe.advanced.neftune_noise_alpha)
    resume.run(trainer, callback, request.checkpoint)
    step = trainer.state.global_step
    if callback.complete:
        callback.require_finite(model, step)
        _save_adapter(request, model, adapter)
        best = monitor.evaluations.best
        if best is not None and best.step != step:
            shutil.copyfile(request.checkpoint_of(best.step) / WEIGHTS, adapter / WEIGHTS)
    return TrainOutput(
        step=step,
        complete=callback.complete,
        quantization=recorded,
        attention=kernel,
        device=device.name,
        notes=notes,
    )


def _kernel(request: TrainRequest, factory: ModelFactory, model: Any) -> str:
    """Return a description of the attention kernel in use.

    Raise InvalidSpec if the recipe sets another kernel.
    """
    kernel = factory.attention(request, model)
    described = f"{FLASH} (PyTorch)" if kernel == VARLEN else kernel
    log(f"attention kernel: {described}")
    advanced = request.recipe.advanced
    same = (FLASH, VARLEN) if kernel == VARLEN else (kernel,)
    if advanced.attn_implementation not in ("auto", *same):
        raise InvalidSpec(
            f"training.advanced.attnImplementation is {advanced.attn_implementation}, but "
            f"the {advanced.backend} backend would use {kernel}: set attnImplementation to auto, "
            "or set training.advanced.backend to trl"
        )
    return described


def _train_in_float32(model: Any, compute: torch.dtype) -> None:
    """Convert all trained parameters to float32: in 16 bits, small updates round to nothing.

    Copies of fully trained modules (``modules_to_save``) have the type of the base. The output of
    such an embedding is cast to the compute type, as the base's is; otherwise the input of every
    layer would be twice as large.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    embedding = model.get_input_embeddings()
    if isinstance(embedding, ModulesToSaveWrapper):
        embedding.register_forward_hook(lambda module, inputs, output: output.to(compute))


def _choose_algorithms(recipe: Training, device: Device) -> None:
    # Not via SFTConfig: Unsloth's drops tf32 on a CPU, and transformers sets it once per process.
    torch.backends.cuda.matmul.allow_tf32 = capabilities.uses_tf32(recipe, device)
    torch.use_deterministic_algorithms(recipe.deterministic)
    if recipe.deterministic:
        log("using deterministic algorithms only")


def _trainer(request: TrainRequest, model: Any, device: Device) -> Trainer:
    # TRL casts the adapter of a quantized base to bfloat16, which loses small updates: the float32
    # weights are restored below.
    weights = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    wanted = library_arguments.sft_arguments(request, device)
    if library_arguments.lacks_router_loss(model.config):
        wanted["router_aux_loss_coef"] = 0.0
    arguments = SFTConfig(**wanted)
    # On a CPU, Unsloth replaces 8-bit optimizers, disables packing, and avoids bfloat16.
    for name, value in _changed(arguments, wanted).items():
        log(f"a library set the argument {name} to {value}; restoring {name} to {wanted[name]}")
        setattr(arguments, name, wanted[name])
    trainer = Trainer(
        request=request,
        model=model,
        args=arguments,
        processing_class=load_tokenizer(request.base),
        train_dataset=library_arguments.as_dataset(request.train, packed=request.packed),
    )
    for name, parameter in model.named_parameters():
        if name in weights:
            parameter.data = weights[name]
    for name, value in _changed(trainer.args, wanted).items():
        raise InvalidSpec(
            f"the backend would set {name} to {value} instead of {wanted[name]}: set "
            "training.advanced.backend to trl"
        )
    if model.config._attn_implementation == VARLEN:
        trainer.data_collator = packed_attention.with_borders(trainer.data_collator)
    # The tokenizer is needed for padding only; if kept, each checkpoint would contain a copy.
    trainer.processing_class = None
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _callback(request: TrainRequest, monitor: Monitor, trainer: Trainer) -> MonitorCallback:
    rows = request.held_out
    return MonitorCallback(
        monitor,
        save=lambda step: request.publish_checkpoint(checkpoint_folder.save(trainer), step),
        evaluate=lambda step: rows is None or held_out.evaluate(trainer, rows, monitor, step),
        take_token_count=trainer.take_token_count,
    )


def _changed(arguments: SFTConfig, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that differ from the wanted ones, with their present values."""
    present = {name: getattr(arguments, name) for name in sorted(wanted.keys() - MAY_CHANGE)}
    return {name: value for name, value in present.items() if value != wanted[name]}


def _save_adapter(request: TrainRequest, model: Any, folder: Path) -> None:
    # PEFT writes the path that the base was loaded from, which exists on this volume only.
    for config in model.peft_config.values():
        config.base_model_name_or_path, config.revision = request.source, request.commit
        if config.modules_to_save:
            # Unsloth makes it a set, whose order differs between processes.
            config.modules_to_save = sorted(config.modules_to_save)
    model.save_pretrained(folder, save_embedding_layers=False)
    # PEFT's model card names a path of this volume.
    (folder / "README.md").unlink(missing_ok=True)
