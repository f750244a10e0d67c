"""Bit-exactness: after a resume, between two runs, and of 4-bit weights on CPU and GPU."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from bench.gpu.memory import NOT_MEASURED, prepare
from bench.table import table
from bench.training import runs
from bench.training.workload import Prepared
from finetune_trainer.quantization import cuda_codes

Quantize = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Returns packed codes and the largest magnitude of each block."""
STEPS = 6
KILLED_AT = 4
"""The preceding checkpoint is that of step 3."""


def resume(folder: Path, backends: list[str], *, cap: int | None) -> str:
    """Train twice without interruption and once with a kill, deterministic and not."""
    rows = []
    for backend in backends:
        seconds = 0.0
        for deterministic in (False, True):
            word = "deterministic" if deterministic else "default"
            print(f"==> {backend}, {word}: two runs and a killed one", flush=True)
            prepared = prepare(
                folder,
                f"exact-{backend}-{deterministic}",
                backend=backend,
                steps=STEPS,
                cap=cap,
                deterministic=deterministic,
                saveSteps=3,
            )
            first = runs.run("ours", prepared, cap=cap)
            whole = _adapter(prepared)
            runs.run("ours", prepared, cap=cap)
            again = _difference(whole, _adapter(prepared))
            runs.run("ours", prepared, cap=cap, kill_at=KILLED_AT)
            runs.run("ours", prepared, cap=cap, fresh=False)
            resumed = _difference(whole, _adapter(prepared))
            step = runs.median([first])
            cost = f"{100 * (step / seconds - 1):+.1f} %" if seconds else "-"
            seconds = seconds or step
            prepared.remove()
            rows.append((f"`{backend}`", word, again, resumed, f"{step:.3f}", cost))
    head = ("backend", "algorithms", "second run", "resumed run", "seconds per step", "cost")
    return table(head, rows)


def nf4(model: Path, *, cuda: bool) -> str:
    """Quantize a model's projections on the GPU, and compare codes and scales with those of merges.

    Two more tensors contain what a GPU treats differently from a CPU (``cuda_codes``).
    """
    head = ("4-bit weights quantized on the GPU and by a merge", "figure")
    what = ("tensors", "with the same codes", "with the same scales", "largest relative step")
    if not cuda:
        return table(head, [(each, NOT_MEASURED) for each in what])
    return table(head, zip(what, agreement([*faint(), *_projections(model)], _on_gpu), strict=True))


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


def _difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> str:
    if _digest(one) == _digest(other):
        return "bit-identical"
    furthest = max(float((one[name] - other[name]).abs().max()) for name in one)
    return f"differs by up to {furthest:.2g}"


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(tensors[name].contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
