"""Memory of one training step, traced on tensors without data.

PyTorch's fake tensors have shapes and storages, but no memory, so a step of an 8B model is traced
in seconds on any machine. The step runs the libraries that backend ``trl`` runs: transformers,
PEFT, bitsandbytes and TRL's loss. A dispatch mode adds up the storages that are alive.

Two differences from CUDA are bridged: dropout uses CUDA's operation, whose mask has one byte per
element, and the workspace of FlashAttention's backward pass is added, which is allocated inside of
the operation.
"""

import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import bitsandbytes as bnb
import peft
import torch
from bitsandbytes.functional import QuantState
from peft.helpers import disable_input_dtype_casting
from peft.tuners.lora import dora
from peft.tuners.tuners_utils import BaseTunerLayer
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import AutoConfig, AutoModelForCausalLM
from trl.trainer import sft_trainer

from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.attention import packed_attention
from finetune_trainer.attention.kernels import VARLEN
from finetune_trainer.estimate.memory import Step
from finetune_trainer.training.backends import library_arguments

BLOCK, DOUBLE_BLOCK = 64, 256
"""Weights per scale of NF4, and scales per scale of its double quantization."""


class _Linear4bit(bnb.nn.Linear4bit):  # type: ignore[misc]
    """A quantized layer whose weight was never quantized: it has the sizes only."""

    def __init__(self, linear: torch.nn.Linear, dtype: torch.dtype) -> None:
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self.compute_dtype, self.compute_type_is_set = dtype, True
        self.support_avx512bf16_for_cpu = False
        count = self.in_features * self.out_features
        scales = math.ceil(count / BLOCK)
        self.state = QuantState(
            absmax=torch.empty(scales, dtype=torch.uint8),
            shape=torch.Size((self.out_features, self.in_features)),
            code=torch.empty(16),
            blocksize=BLOCK,
            quant_type="nf4",
            dtype=dtype,
            offset=torch.empty(()),
            state2=QuantState(
                absmax=torch.empty(math.ceil(scales / DOUBLE_BLOCK)),
                code=torch.empty(256),
                blocksize=DOUBLE_BLOCK,
                dtype=torch.float32,
            ),
        )
        data = torch.empty(count // 2, 1, dtype=torch.uint8)
        weight: Any = torch.nn.Parameter(data, requires_grad=False)
        weight.quant_state, weight.blocksize = self.state, BLOCK
        weight.compress_statistics, weight.quant_type = True, "nf4"
        self.weight = weight


class Live(TorchDispatchMode):  # type: ignore[misc]
    """Adds up the bytes of the storages that are alive. workspace: see ``Case``."""

    def __init__(self, *, workspace: int) -> None:
        """Start without tensors."""
        super().__init__()
        self.now = self.peak = 0
        self.moment = ""
        self._workspace = workspace
        self._sizes: dict[int, int] = {}

    def add(self, tensor: torch.Tensor, operation: str = "") -> None:
        """Count the storage of a tensor, once."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self._remove, key)
            self._note(self.now, operation)

    def _remove(self, key: int) -> None:
        self.now -= self._sizes.pop(key)

    def _note(self, size: int, operation: str) -> None:
        if size > self.peak:
            self.peak, self.moment = size, operation

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = str(func)
        for leaf in tree_iter(output):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf, name)
        if "attn_backward" in name or "attention_for_cpu_backward" in name:
            self._note(self.now + self._workspace, name)
        return output


@dataclass(frozen=True, kw_only=True)
class Case:
    """A step to trace.

    config: the sizes in config.json. workspace: bytes that the backward pass of the attention
    allocates inside of the operation.
    """

    config: dict[str, Any]
    recipe: Training
    step: Step
    workspace: int


@dataclass(frozen=True, kw_only=True)
class Traced:
    """Bytes of the model before the step and at its peak, and the operation of the peak."""

    before: int
    peak: int
    moment: str


def trace(case: Case) -> Traced:
    """Return the memory of a forward and a backward pass, gradients of the adapter included."""
    packed_attention.register()
    with FakeTensorMode(allow_non_fake_inputs=True), _without_data(case.step.tokens):
        model = _model(case)
        live = Live(workspace=case.workspace)
        for tensor in _tensors(model):
            live.add(tensor)
        before = live.now
        batch = _batch(case)
        with live, disable_input_dtype_casting(model, active=True):
            for tensor in batch.values():
                if isinstance(tensor, torch.Tensor):
                    live.add(tensor)
            with torch.autocast("cpu", dtype=_dtype(case)):
                loss = model(**batch).loss
            loss.backward()
    return Traced(before=before, peak=live.peak, moment=live.moment)


@contextmanager
def _without_data(tokens: int) -> Iterator[None]:
    """Replace operations that need data.

    TRL reads the number of chunks, PEFT moves modules, and DoRA dequantizes the weights.

    CUDA's dropout keeps a mask of one byte per element, the CPU's one of two bytes.
    """
    chunk = sft_trainer._CHUNKED_LM_HEAD_CHUNK_SIZE
    padded = -(-(tokens - 1) // chunk) * chunk

    def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        return torch.native_dropout(input, p, True)[0] if p and training else input

    with (
        mock.patch.object(FakeTensor, "__index__", return_value=padded),
        mock.patch.object(torch.nn.Module, "to", lambda self, *args, **kwargs: self),
        mock.patch.object(
            BaseTunerLayer, "_move_adapter_to_device_of_base_layer", return_value=None
        ),
        mock.patch.object(torch.nn.functional, "dropout", dropout),
        mock.patch.object(dora, "dequantize_module_weight", _dequantized),
    ):
        yield


def _dequantized(module: _Linear4bit) -> torch.Tensor:
    return torch.empty(module.out_features, module.in_features, dtype=module.compute_dtype)


def _dtype(case: Case) -> torch.dtype:
    dtype = getattr(torch, case.recipe.advanced.quantization.compute_dtype)
    assert isinstance(dtype, torch.dtype)
    return dtype


def _model(case: Case) -> Any:
    """Return the model as backend ``trl`` makes it: 4-bit base, float32 adapter, chunked loss."""
    sizes = {name: value for name, value in case.config.items() if name != "model_type"}
    config = AutoConfig.for_model(case.config["model_type"], **sizes)
    base = AutoModelForCausalLM.from_config(
        config, attn_implementation=case.step.kernel, dtype=_dtype(case)
    )
    base.config.use_cache = False
    # Layers are chosen by the names of their classes, which the next lines change.
    adapter = library_arguments.lora_config(case.recipe, base)
    head = base.get_output_embeddings()
    for module in list(base.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear) and child is not head:
                setattr(module, name, _Linear4bit(child, _dtype(case)))
    base.requires_grad_(False)
    base.is_loaded_in_4bit = True
    model = peft.get_peft_model(base, adapter)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if case.recipe.advanced.gradient_checkpointing is not False:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    sft_trainer._patch_chunked_ce_lm_head(base, chunk_size=sft_trainer._CHUNKED_LM_HEAD_CHUNK_SIZE)
    return model.train()


def _tensors(model: Any) -> Iterator[torch.Tensor]:
    yield from model.parameters()
    yield from model.buffers()
    for module in model.modules():
        if isinstance(module, _Linear4bit):
            state = module.state
            yield from (state.absmax, state.code, state.offset)
            yield from (state.state2.absmax, state.state2.code)


def _batch(case: Case) -> dict[str, Any]:
    """Return a batch as the collator makes it: packed rows are flattened, others padded."""
    step = case.step
    rows, length = (1, step.tokens) if step.packed else (step.micro_batch, step.length)
    ids = torch.zeros(rows, length, dtype=torch.long)
    batch: dict[str, Any] = {"input_ids": ids, "labels": torch.zeros_like(ids)}
    if step.packed:
        batch["position_ids"] = torch.zeros_like(ids)
    elif rows > 1:
        batch["attention_mask"] = torch.zeros_like(ids)
    if step.kernel == VARLEN:
        borders = torch.zeros(step.micro_batch + 1, dtype=torch.int32)
        batch |= {"cu_seq_lens_q": borders, "cu_seq_lens_k": borders}
        batch |= {"max_length_q": step.length, "max_length_k": step.length}
    return batch
