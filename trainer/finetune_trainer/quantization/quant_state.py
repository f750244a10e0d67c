"""Record the 4-bit weights of a training, and reproduce them bit for bit.

A weight is quantized in blocks of 64: a 4-bit code per weight, a scale per block. The codes follow
from the weight; their digest shows whether they were reproduced. The scales of double quantization
do not: they depend on a mean, whose last bits depend on the summation order of the device, and are
themselves rounded to 8 bits. Therefore they are stored (1/64 byte per weight). Some codes depend on
whether a GPU or a CPU quantized the weight, which the adapter records (``cuda_codes``).

``record_quantization`` reads them from the model before training, ``require_quantization`` compares
the model with the recipe, and ``Quantizer`` reproduces the weights on any device, in pieces of any
number of blocks.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from finetune_api.v1alpha1.training.advanced import Quantization
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.checkpointing.manifest import Manifest
from finetune_trainer.checkpointing.published import QUANTIZATION
from finetune_trainer.errors import InvalidSpec, NotMergeable
from finetune_trainer.quantization import cuda_codes, nf4

BLOCK = 64
NESTED_BLOCK = 256
NESTED = ("absmax", "nested_absmax", "nested_quant_map", "offset")


@dataclass(frozen=True, kw_only=True)
class QuantizationRecord:
    """Digests of the packed codes and, with double quantization, the scales.

    digests: SHA-256 in hex by module name. scales: tensors named ``<module>.<part>`` as in
    bitsandbytes' QuantState: absmax (uint8, one per block), nested_absmax (float32, one per 256
    blocks), nested_quant_map (float32, 256), offset (float32, scalar).
    """

    digests: Mapping[str, str]
    scales: Mapping[str, torch.Tensor]

    def save(self, folder: Path) -> None:
        """Write the scales into a folder."""
        save_file(dict(self.scales), folder / QUANTIZATION)


def record_quantization(model: Any) -> QuantizationRecord:
    """Record the 4-bit weights of a newly loaded model, before an adapter is added."""
    from bitsandbytes.nn import Linear4bit

    digests, scales = {}, {}
    for name, module in model.named_modules():
        if not isinstance(module, Linear4bit):
            continue
        digests[name] = _digest(module.weight.data)
        state = module.weight.quant_state
        if state.nested:
            parts = (state.absmax, state.state2.absmax, state.state2.code, state.offset)
            for part, tensor in zip(NESTED, parts, strict=True):
                scales[f"{name}.{part}"] = tensor.detach().cpu().contiguous().clone()
    return QuantizationRecord(digests=digests, scales=scales)


def require_quantization(model: Any, recipe: Training) -> None:
    """Raise InvalidSpec if a loaded model is not quantized as the recipe requires.

    A library may deviate on some devices: on a CPU, Unsloth supports only nf4 with double
    quantization, does not compute in float16, and leaves narrow layers in 16 bits.
    """
    from bitsandbytes.nn import Linear4bit

    requested = recipe.advanced.quantization
    asked = (requested.type, requested.double_quant, getattr(torch, requested.compute_dtype))
    layers = [layer for layer in model.modules() if isinstance(layer, Linear4bit)]
    for layer in layers:
        state = layer.weight.quant_state
        actual = (state.quant_type, state.nested, layer.compute_dtype)
        if actual != asked:
            raise InvalidSpec(
                f"on this device, the backend quantizes to {_describe(*actual)}, but the job "
                f"requires {_describe(*asked)}: omit training.advanced.quantization, or set "
                "training.advanced.backend to trl"
            )
    if not layers:
        raise InvalidSpec(
            "the backend did not quantize any layer of the base model: set "
            "training.advanced.backend to trl, or use a base model with wider layers"
        )


def _describe(kind: str, nested: bool, dtype: torch.dtype) -> str:
    scales = "with" if nested else "without"
    computing = str(dtype).removeprefix("torch.")
    return f"{kind} {scales} double quantization, computing in {computing}"


class Quantizer:
    """Reproduces one recorded weight in pieces and verifies its codes."""

    def __init__(
        self,
        module: str,
        *,
        digest: str,
        scales: Mapping[str, torch.Tensor],
        quantization: Quantization,
        by_cuda: bool,
    ) -> None:
        """``scales``: this module's tensors, on the device that computes.

        by_cuda: whether a GPU quantized the weight in training.
        """
        self._module = module
        self._digest = digest
        self._quantization = quantization
        self._by_cuda = by_cuda
        self._sha256 = hashlib.sha256()
        self._absmax = _block_scales(module, scales) if quantization.double_quant else None

    def round_trip(
        self, piece: torch.Tensor, *, block: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a piece as it was in training, and its packed codes (uint8) for ``count``.

        piece: whole blocks, except at the end of the weight. block: index of its first block.
        """
        requested = self._quantization
        piece = piece.to(getattr(torch, requested.compute_dtype))
        blocks = math.ceil(piece.numel() / BLOCK)
        absmax = None if self._absmax is None else self._absmax[block : block + blocks]
        on_cpu = piece.device.type == "cpu"
        if on_cpu and self._by_cuda:
            return cuda_codes.round_trip(piece, absmax, kind=requested.type, block=BLOCK)
        if on_cpu and requested.type == "nf4" and piece.numel() % BLOCK == 0:
            return nf4.round_trip(piece, absmax, block=BLOCK)
        return _round_trip(piece, absmax, requested.type)

    def count(self, codes: torch.Tensor) -> None:
        """Add the codes of the next piece to the digest; pieces must come in order."""
        self._sha256.update(_bytes(codes))

    def finish(self) -> None:
        """Raise NotMergeable if the codes of all pieces differ from those of the training."""
        if self._sha256.hexdigest() != self._digest:
            raise NotMergeable(
                f"the 4-bit codes of {self._module} differ from the codes that training used: set "
                "merge.base to original"
            )


class DequantizedBase:
    """The base as it was quantized in training, reproduced from the record in the adapter."""

    def __init__(self, adapter: Manifest, folder: Path) -> None:
        """``adapter``: manifest of the published ``folder``."""
        self._digests: dict[str, str] = adapter.facts["quantizedModules"]
        self._quantization = Quantization.model_validate(adapter.facts["quantization"])
        # The device that trains also quantizes.
        self._by_cuda: bool = adapter.facts.get("device", "cpu") != "cpu"
        path = folder / QUANTIZATION
        double_quant = self._quantization.double_quant
        self._scales: Any = safe_open(path, framework="pt") if double_quant else None

    @property
    def tensors(self) -> frozenset[str]:
        """Names of the base tensors that were quantized."""
        return frozenset(f"{module}.weight" for module in self._digests)

    def covers(self, tensor: str) -> bool:
        """Report whether a base tensor was quantized."""
        return tensor.removesuffix(".weight") in self._digests

    def quantizer(self, tensor: str, device: torch.device | str = "cpu") -> Quantizer:
        """Return the quantizer of a tensor on a device."""
        module = tensor.removesuffix(".weight")
        scales = {}
        if self._scales is not None:
            for part in NESTED:
                scales[f"{module}.{part}"] = self._scales.get_tensor(f"{module}.{part}").to(device)
        return Quantizer(
            module,
            digest=self._digests[module],
            scales=scales,
            quantization=self._quantization,
            by_cuda=self._by_cuda,
        )

    def weight(self, tensor: str, original: torch.Tensor) -> torch.Tensor:
        """Return a whole weight as it was in training, on the original's device."""
        quantizer = self.quantizer(tensor, original.device)
        dequantized, codes = quantizer.round_trip(original)
        quantizer.count(codes)
        quantizer.finish()
        return dequantized


def _round_trip(
    piece: torch.Tensor, absmax: torch.Tensor | None, kind: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize and dequantize a piece with bitsandbytes, with the stored scales."""
    from bitsandbytes.functional import QuantState, dequantize_4bit, quantize_4bit

    codes, computed = quantize_4bit(piece, blocksize=BLOCK, quant_type=kind)
    state = QuantState(
        absmax=computed.absmax if absmax is None else absmax,
        shape=piece.shape,
        dtype=piece.dtype,
        blocksize=BLOCK,
        code=computed.code,
        quant_type=kind,
    )
    return dequantize_4bit(codes, state), codes


def _block_scales(module: str, scales: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the scale of each block in float32."""
    codes, nested, quant_map, offset = (scales[f"{module}.{part}"] for part in NESTED)
    relative = quant_map[codes.view(-1).int()]
    return relative * nested.repeat_interleave(NESTED_BLOCK)[: relative.numel()] + offset


def _digest(codes: torch.Tensor) -> str:
    return hashlib.sha256(_bytes(codes)).hexdigest()


def _bytes(codes: torch.Tensor) -> memoryview:
    return memoryview(codes.detach().cpu().contiguous().view(torch.uint8).numpy()).cast("B")
