"""The 4-bit weights of a training, described so that they can be made again bit for bit.

A weight is quantised in blocks of 64: a code of 4 bits a number, a scale a block. The codes follow
from the weight, and a digest says whether they came out the same. The scales of double quantisation
do not: they hang on a mean, whose last bits depend on the order in which the device summed, and
were themselves rounded to 8 bits; so they are kept (1/64 byte a weight).

``record`` reads them off the model that is about to be trained, ``require`` compares them with the
recipe; ``Quantizer`` makes the weights
again, on any device and in pieces of any number of blocks.
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

from finetune_api.v1alpha1.training import Quantization, Training
from finetune_trainer.checkpointing.manifest import Manifest
from finetune_trainer.errors import InvalidSpec, NotMergeable
from finetune_trainer.quantization import nf4

FILE = "quantization.safetensors"
BLOCK = 64
NESTED_BLOCK = 256
NESTED = ("absmax", "nested_absmax", "nested_quant_map", "offset")


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """``digests`` has the SHA-256 of each quantised module's packed codes, by the module's name.

    ``scales`` has, for double quantisation alone, each module's tensors under ``<module>.<part>``:
    absmax (uint8, one a block), nested_absmax (float32, one for 256 blocks), nested_quant_map
    (float32, 256) and offset (float32, a scalar), as bitsandbytes' QuantState has them.
    """

    digests: Mapping[str, str]
    scales: Mapping[str, torch.Tensor]

    def save(self, folder: Path) -> None:
        """Write the scales."""
        save_file(dict(self.scales), folder / FILE)


def record(model: Any) -> Recorded:
    """Describe the 4-bit weights of a freshly loaded model, before an adapter is laid over it."""
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
    return Recorded(digests=digests, scales=scales)


def require(model: Any, recipe: Training) -> None:
    """Refuse a loaded model whose 4-bit weights are not what the recipe asks for.

    A library may choose otherwise on a device that it does not know well: Unsloth on a CPU has nf4
    with double quantisation alone, computes in no float16, and leaves narrow layers in 16 bits.
    """
    from bitsandbytes.nn import Linear4bit

    wanted = recipe.advanced.quantization
    asked = (wanted.type, wanted.double_quant, getattr(torch, wanted.compute_dtype))
    layers = [each for each in model.modules() if isinstance(each, Linear4bit)]
    for each in layers:
        state = each.weight.quant_state
        found = (state.quant_type, state.nested, each.compute_dtype)
        if found != asked:
            raise InvalidSpec(
                f"here the backend quantises to {_words(*found)}, not to {_words(*asked)}: leave "
                "training.advanced.quantization out, or set training.advanced.backend to trl"
            )
    if not layers:
        raise InvalidSpec(
            "the backend quantised no layer of this base: set training.advanced.backend to trl, or "
            "choose a base with wider layers"
        )


def _words(kind: str, nested: bool, dtype: torch.dtype) -> str:
    scales = "with" if nested else "without"
    computing = str(dtype).removeprefix("torch.")
    return f"{kind} {scales} double quantisation, computing in {computing}"


class Quantizer:
    """Makes one recorded weight again, in pieces, and proves that it is the same."""

    def __init__(
        self,
        module: str,
        *,
        digest: str,
        scales: Mapping[str, torch.Tensor],
        quantization: Quantization,
    ) -> None:
        """``scales`` has this module's tensors, on the device that is to compute."""
        self._module = module
        self._digest = digest
        self._quantization = quantization
        self._sha256 = hashlib.sha256()
        self._absmax = _absmax(module, scales) if quantization.double_quant else None

    def round_trip(
        self, piece: torch.Tensor, *, block: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a piece as training saw it, and its packed codes (uint8), which ``count`` takes.

        piece: whole blocks, but for the weight's end. block: the weight's blocks before it.
        """
        wanted = self._quantization
        piece = piece.to(getattr(torch, wanted.compute_dtype))
        blocks = math.ceil(piece.numel() / BLOCK)
        absmax = None if self._absmax is None else self._absmax[block : block + blocks]
        if wanted.type == "nf4" and piece.device.type == "cpu" and piece.numel() % BLOCK == 0:
            return nf4.round_trip(piece, absmax, block=BLOCK)
        return _round_trip(piece, absmax, wanted.type)

    def count(self, codes: torch.Tensor) -> None:
        """Take the codes of the next piece, from the weight's start to its end."""
        self._sha256.update(_bytes(codes))

    def finish(self) -> None:
        """Make sure that the codes of all pieces were those of the training."""
        if self._sha256.hexdigest() != self._digest:
            raise NotMergeable(
                f"{self._module} quantises to other 4-bit codes here than it did in training: set "
                "merge.base to original"
            )


class RoundedBase:
    """The base as it was quantised in training, from what ``record`` left in the adapter."""

    def __init__(self, adapter: Manifest, folder: Path) -> None:
        """``adapter`` is the manifest of the published ``folder``."""
        self._digests: dict[str, str] = adapter.facts["quantizedModules"]
        self._quantization = Quantization.model_validate(adapter.facts["quantization"])
        path = folder / FILE
        double_quant = self._quantization.double_quant
        self._scales: Any = safe_open(path, framework="pt") if double_quant else None

    @property
    def tensors(self) -> frozenset[str]:
        """Names of the base tensors that were quantised."""
        return frozenset(f"{module}.weight" for module in self._digests)

    def covers(self, tensor: str) -> bool:
        """Tell whether a base tensor was quantised."""
        return tensor.removesuffix(".weight") in self._digests

    def quantizer(self, tensor: str, device: torch.device | str = "cpu") -> Quantizer:
        """Return what makes a tensor again, in pieces, on a device."""
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
        )

    def weight(self, tensor: str, original: torch.Tensor) -> torch.Tensor:
        """Return a whole weight as training saw it, on the original's device."""
        quantizer = self.quantizer(tensor, original.device)
        made, codes = quantizer.round_trip(original)
        quantizer.count(codes)
        quantizer.finish()
        return made


def _round_trip(
    piece: torch.Tensor, absmax: torch.Tensor | None, kind: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Let bitsandbytes quantise a piece and make it again, with the scales that were kept."""
    from bitsandbytes.functional import QuantState, dequantize_4bit, quantize_4bit

    codes, found = quantize_4bit(piece, blocksize=BLOCK, quant_type=kind)
    state = QuantState(
        absmax=found.absmax if absmax is None else absmax,
        shape=piece.shape,
        dtype=piece.dtype,
        blocksize=BLOCK,
        code=found.code,
        quant_type=kind,
    )
    return dequantize_4bit(codes, state), codes


def _absmax(module: str, scales: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the scale of each block, in float32."""
    codes, nested, quant_map, offset = (scales[f"{module}.{part}"] for part in NESTED)
    relative = quant_map[codes.view(-1).int()]
    return relative * nested.repeat_interleave(NESTED_BLOCK)[: relative.numel()] + offset


def _digest(codes: torch.Tensor) -> str:
    return hashlib.sha256(_bytes(codes)).hexdigest()


def _bytes(codes: torch.Tensor) -> memoryview:
    return memoryview(codes.detach().cpu().contiguous().view(torch.uint8).numpy()).cast("B")
