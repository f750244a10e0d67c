"""Bit-exactness: after a resume, between two runs, and of 4-bit weights on CPU and GPU."""

import hashlib
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from bench.gpu.memory import NOT_MEASURED, prepare
from bench.table import table
from bench.training import runs
from bench.training.workload import Prepared

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
    """Quantize a model's projections on CPU and GPU, and compare codes and scales."""
    head = ("4-bit weights quantized on CPU and GPU", "figure")
    what = ("tensors", "with the same codes", "with the same scales", "largest relative step")
    if not cuda:
        return table(head, [(each, NOT_MEASURED) for each in what])
    from bitsandbytes.functional import quantize_4bit

    count = codes = scales = 0
    furthest = 0.0
    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                if "_proj" not in name:
                    continue
                weight = file.get_tensor(name)
                ours, state = quantize_4bit(weight, blocksize=64, quant_type="nf4")
                theirs, other = quantize_4bit(weight.cuda(), blocksize=64, quant_type="nf4")
                count += 1
                codes += torch.equal(ours, theirs.cpu())
                there = other.absmax.cpu()
                scales += torch.equal(state.absmax, there)
                step = ((state.absmax - there).abs() / state.absmax.clamp_min(1e-30)).max()
                furthest = max(furthest, float(step))
    figures = (str(count), str(codes), str(scales), f"{furthest:.2g}")
    return table(head, zip(what, figures, strict=True))


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
