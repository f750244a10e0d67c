"""The device that trains: the GPU of this pod, or the CPU."""

import os
from dataclasses import dataclass

from finetune_trainer.errors import Transient


@dataclass(frozen=True, kw_only=True)
class Device:
    """The device that trains. ``capability`` is CUDA's; (0, 0) on a CPU."""

    name: str
    cuda: bool
    capability: tuple[int, int] = (0, 0)

    @property
    def has_bfloat16(self) -> bool:
        """Whether bfloat16 is native: on Ampere and later, and on every CPU (slow on old ones)."""
        return not self.cuda or self.capability >= (8, 0)


def detect() -> Device:
    """Return the GPU of this process, or the CPU if it has none.

    Raise Transient if the container has a GPU that CUDA cannot use: such a pod must not train on
    its CPU.
    """
    import torch

    if torch.cuda.is_available():
        return Device(
            name=torch.cuda.get_device_name(),
            cuda=True,
            capability=torch.cuda.get_device_capability(),
        )
    given = os.environ.get("NVIDIA_VISIBLE_DEVICES", "")
    if given not in ("", "none", "void"):
        raise Transient(
            f"CUDA cannot use the container's GPU {given}: run nvidia-smi on the node to check its "
            f"driver, which must support CUDA {torch.version.cuda}"
        )
    return Device(name="cpu", cuda=False)


NO_FALLBACK = "UNSLOTH_DISABLE_CPU_FALLBACK"
"""Set to 1 by the operator in pods that request a GPU; the unsloth backend then requires one."""


def refuse_cpu_fallback() -> None:
    """Raise Transient if Unsloth would fall back to the CPU of a pod that requests a GPU."""
    if os.environ.get(NO_FALLBACK) == "1" and not detect().cuda:
        raise Transient(
            "the backend unsloth needs a GPU, but CUDA found none in this "
            "pod: run nvidia-smi on the node to check its driver, and check its device plugin. "
            "To train on the CPU, set training.advanced.backend to trl"
        )


def memory_peak() -> int | None:
    """Return the peak of allocated GPU memory in bytes, or None without a GPU."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
