"""The device that trains: the GPU of this pod, or the CPU.

A pod without a usable GPU trains on its CPU, unless ``FINETUNE_REQUIRE_GPU`` is set. The operator
sets it in every pod that requests a GPU. No variable of NVIDIA's can replace it: with CDI,
``NVIDIA_VISIBLE_DEVICES`` is ``void`` in a pod that has a GPU, and GKE does not set it.
"""

import gc
import os
import re

from finetune_trainer.devices.capabilities import MIN_DRIVER, Device, require_capability
from finetune_trainer.errors import Transient, UnsupportedGpu

REQUIRE_GPU = "FINETUNE_REQUIRE_GPU"
"""Set to ``true`` if training on the CPU is a failure."""


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
            f"later (CUDA 13): update the driver, or use spec.placement to select other nodes. "
            f"CUDA reports: {reported}"
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
