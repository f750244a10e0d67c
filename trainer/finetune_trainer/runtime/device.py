"""The device that trains: the GPU of this pod, or the CPU.

A pod without a usable GPU trains on its CPU, unless ``FINETUNE_REQUIRE_GPU`` is set. The operator
sets it in every pod that requests a GPU. No variable of NVIDIA's can replace it: with CDI,
``NVIDIA_VISIBLE_DEVICES`` is ``void`` in a pod that has a GPU, and GKE does not set it.
"""

import gc
import os
import re
from dataclasses import dataclass

from finetune_trainer.errors import Transient, UnsupportedGpu
from finetune_trainer.runtime.cards import MIN_CAPABILITY

REQUIRE_GPU = "FINETUNE_REQUIRE_GPU"
"""Set to ``true`` if training on the CPU is a failure."""
MIN_DRIVER = "R580"
"""The oldest NVIDIA driver that runs CUDA 13."""


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

    @property
    def product(self) -> str | None:
        """The GPU as the node label nvidia.com/gpu.product names it; None for a CPU."""
        return "-".join(self.name.split()) if self.cuda else None


def detect() -> Device:
    """Return the GPU of this process, or the CPU if it has none.

    Raise UnsupportedGpu if this image cannot use the GPU or its driver. Raise Transient if a GPU is
    required and CUDA finds none.
    """
    import torch

    if torch.cuda.is_available():
        device = Device(
            name=torch.cuda.get_device_name(),
            cuda=True,
            capability=torch.cuda.get_device_capability(),
        )
        require_capability(device.name, device.capability)
        return device
    if os.environ.get(REQUIRE_GPU) == "true":
        raise _unusable(_reported_by_cuda())
    return Device(name="cpu", cuda=False)


def require_capability(name: str, capability: tuple[int, int]) -> None:
    """Raise UnsupportedGpu if a GPU is older than the architectures of this image."""
    if capability < MIN_CAPABILITY:
        found, needed = (".".join(map(str, each)) for each in (capability, MIN_CAPABILITY))
        raise UnsupportedGpu(
            f"GPU {name} has the compute capability {found}, and this image needs {needed} "
            "(Turing) or later: select nodes with a newer GPU in the chart value gpu.products or "
            "in spec.placement.nodeSelector"
        )


def require_versions(driver: int | None, capability: str | None) -> None:
    """Raise UnsupportedGpu if the labels that select the nodes name versions that are too old.

    driver: branch of the NVIDIA driver; capability: as MAJOR.MINOR. None is not checked.
    """
    if capability is not None:
        major, minor = map(int, capability.split("."))
        require_capability("of the nodes", (major, minor))
    if driver is not None and driver < int(MIN_DRIVER.removeprefix("R")):
        raise UnsupportedGpu(
            f"spec.placement.nodeSelector selects nodes with the NVIDIA driver R{driver}, which is "
            f"too old for this image; it needs {MIN_DRIVER} or later (CUDA 13): update the driver, "
            "or select other nodes"
        )


def _reported_by_cuda() -> str:
    """Return CUDA's own message about the missing GPU."""
    import torch

    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return " ".join(str(error).split())
    return "torch.cuda.is_available() is False"


def _unusable(reported: str) -> UnsupportedGpu | Transient:
    """Return the error for a GPU that CUDA cannot use, from CUDA's message."""
    if re.search(r"driver.*(too old|insufficient)", reported, re.IGNORECASE):
        return UnsupportedGpu(
            f"the NVIDIA driver of the node is too old for this image, which needs {MIN_DRIVER} or "
            f"later (CUDA 13): update the driver, or select other nodes in spec.placement. CUDA "
            f"reports: {reported}"
        )
    return Transient(
        "CUDA cannot use the GPU of this pod: check the driver and the device plugin of the node, "
        "for example with nvidia-smi. In a cluster without GPUs, set the chart value gpu.required "
        f"to false. CUDA reports: {reported}"
    )


def release_memory() -> None:
    """Return unreferenced memory to the GPU."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def memory_peak() -> int | None:
    """Return the peak of allocated GPU memory in bytes, or None without a GPU."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
