"""Bit-exactness: after a resume, between two runs, and of 4-bit weights on CPU and GPU."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bench.gpu.pieces import Measurement
from bench.gpu.training import Workplace
from bench.training import runs
from bench.training.workload import Prepared
from finetune_trainer.quantization import cuda_codes

Quantize = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Returns packed codes and the largest magnitude of each block."""
ALGORITHMS = ("default", "deterministic")
STEPS = 6
KILLED_AT = 4
"""The preceding checkpoint is that of step 3."""
IDENTICAL = "bit-identical"


def measurements(work: Workplace, backends: list[str]) -> Iterator[tuple[str, Measurement]]:
    """Yield the measurements: of each backend, two whole runs and a killed one; 4-bit weights."""
    for backend in backends:
        for algorithms in ALGORITHMS:
            for what, measure in (("repeat", _repeat), ("resume", _resume)):
                yield f"{what}/{backend}/{algorithms}", partial(measure, work, backend, algorithms)
    yield "nf4", partial(_nf4, work)


def _repeat(work: Workplace, backend: str, algorithms: str) -> dict[str, Any]:
    """Train twice without interruption."""
    prepared = _prepared(work, backend, algorithms)
    first = runs.run("ours", prepared, cap=work.cap)
    whole = _adapter(prepared)
    save_file(whole, _whole(prepared))
    runs.run("ours", prepared, cap=work.cap)
    difference = _difference(whole, _adapter(prepared))
    return {"difference": difference, "secondsPerStep": runs.median([first])}


def _resume(work: Workplace, backend: str, algorithms: str) -> dict[str, Any]:
    """Train with a kill, and compare with a run without interruption."""
    prepared = _prepared(work, backend, algorithms)
    kept = _whole(prepared)
    if not kept.exists():
        runs.run("ours", prepared, cap=work.cap)
        save_file(_adapter(prepared), kept)
    runs.run("ours", prepared, cap=work.cap, kill_at=KILLED_AT)
    runs.run("ours", prepared, cap=work.cap, fresh=False)
    return {"difference": _difference(dict(load_file(kept)), _adapter(prepared))}


def _whole(prepared: Prepared) -> Path:
    """Return the place of the adapter of a run without interruption."""
    return prepared.work / "whole.safetensors"


def _prepared(work: Workplace, backend: str, algorithms: str) -> Prepared:
    return work.default_recipe(
        f"exact-{backend}-{algorithms}",
        backend=backend,
        steps=STEPS,
        deterministic=algorithms == "deterministic",
        saveSteps=3,
    )


def _nf4(work: Workplace) -> dict[str, Any]:
    """Quantize a model's projections on the GPU, and compare codes and scales with those of merges.

    Two more tensors contain what a GPU treats differently from a CPU (``cuda_codes``).
    """
    model = work.model()
    if work.cap is None:
        return {}
    names = ("tensors", "equalCodes", "equalScales", "largestStep")
    return dict(zip(names, agreement([*faint(), *_projections(model)], _on_gpu), strict=True))


def agreement(weights: Iterable[torch.Tensor], quantize: Quantize) -> tuple[str, ...]:
    """Return the figures for weights that ``quantize`` quantizes."""
    count = codes = scales = 0
    furthest = 0.0
    for weight in weights:
        theirs, there = quantize(weight)
        _, ours = cuda_codes.round_trip(weight, None, kind="nf4", block=64)
        # A GPU flushes subnormal numbers to zero.
        here = weight.float().view(-1, 64).abs().amax(1)
        here[here < torch.finfo(torch.float32).tiny] = 0
        count += 1
        codes += torch.equal(ours, theirs)
        scales += torch.equal(here, there)
        step = ((here - there).abs() / here.clamp_min(1e-30)).max()
        furthest = max(furthest, float(step))
    return str(count), str(codes), str(scales), f"{furthest:.2g}"


def faint() -> list[torch.Tensor]:
    """Return weights with blocks of zeros, of subnormal numbers, and of some of both."""
    torch.manual_seed(0)
    weight = torch.randn(64, 256).to(torch.bfloat16)
    zeros, small = weight.clone(), weight * 1e-38
    zeros[::2] = 0
    small[::3, ::2] = 0
    return [zeros, small]


def _projections(model: Path) -> Iterator[torch.Tensor]:
    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                if "_proj" in name:
                    yield file.get_tensor(name)


def _on_gpu(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    from bitsandbytes.functional import quantize_4bit

    codes, state = quantize_4bit(weight.cuda(), blocksize=64, quant_type="nf4")
    return codes.cpu(), state.absmax.cpu()


def _adapter(prepared: Prepared) -> dict[str, torch.Tensor]:
    return dict(load_file(prepared.work / "adapter" / "adapter_model.safetensors"))


def _difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> str:
    if _digest(first) == _digest(second):
        return IDENTICAL
    furthest = max(float((first[name] - second[name]).abs().max()) for name in first)
    return f"differs by up to {furthest:.2g}"


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
