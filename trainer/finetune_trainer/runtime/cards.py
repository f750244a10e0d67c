"""GPU cards, keyed by the node label ``nvidia.com/gpu.product`` of GPU feature discovery.

Memory is ``memory.total`` of nvidia-smi in MiB with ECC as shipped: a "24 GB" A10G has 23,028 MiB =
22.49 GiB. Speed is the dense bfloat16 rate in TFLOP/s (float16 for cards without bfloat16) from
NVIDIA's data sheets. The compute capability is from developer.nvidia.com/cuda-gpus.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

MIB = 1024 * 1024
MIN_CAPABILITY = (7, 5)
"""Turing, the oldest architecture in the PyTorch and bitsandbytes of this image (CUDA 13)."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """A GPU card: memory in bytes, TFLOP/s (None: unknown), and the compute capability of CUDA."""

    name: str
    memory: int
    tflops: float | None = None
    capability: tuple[int, int] = (8, 0)

    @property
    def is_ampere(self) -> bool:
        """Whether the card is Ampere or later: it has bfloat16 and runs FlashAttention-2."""
        return self.capability >= (8, 0)

    @property
    def gib(self) -> float:
        """Memory in GiB."""
        return self.memory / 2**30


_TABLE = {
    "Tesla-T4": (15_360, 65.0, (7, 5)),
    "Tesla-V100-SXM2-16GB": (16_384, 125.0, (7, 0)),
    "Tesla-V100-SXM2-32GB": (32_768, 125.0, (7, 0)),
    "NVIDIA-A10": (23_028, 125.0, (8, 6)),
    "NVIDIA-A10G": (23_028, 70.0, (8, 6)),
    "NVIDIA-L4": (23_034, 121.0, (8, 9)),
    "NVIDIA-GeForce-RTX-3090": (24_576, 71.0, (8, 6)),
    "NVIDIA-GeForce-RTX-4090": (24_564, 165.2, (8, 9)),
    "NVIDIA-A40": (46_068, 149.7, (8, 6)),
    "NVIDIA-L40S": (46_068, 362.0, (8, 9)),
    "NVIDIA-RTX-A6000": (49_140, 154.8, (8, 6)),
    "NVIDIA-A100-PCIE-40GB": (40_960, 312.0, (8, 0)),
    "NVIDIA-A100-SXM4-40GB": (40_960, 312.0, (8, 0)),
    "NVIDIA-A100-80GB-PCIe": (81_920, 312.0, (8, 0)),
    "NVIDIA-A100-SXM4-80GB": (81_920, 312.0, (8, 0)),
    "NVIDIA-H100-PCIe": (81_559, 756.0, (9, 0)),
    "NVIDIA-H100-80GB-HBM3": (81_559, 989.0, (9, 0)),
    "NVIDIA-H200": (143_771, 989.0, (9, 0)),
}
CARDS = {
    name: Card(name=name, memory=mib * MIB, tflops=tflops, capability=capability)
    for name, (mib, tflops, capability) in _TABLE.items()
}


def find(name: str) -> Card | None:
    """Return the card that a ``nvidia.com/gpu.product`` label value names, or None.

    The comparison ignores case, the vendor prefix and separators. A time-sliced card (``-SHARED``)
    counts with its whole memory; a MIG slice is not in the table.
    """
    wanted = _plain(re.sub(r"-SHARED$", "", name))
    return next((card for card in CARDS.values() if _plain(card.name) == wanted), None)


def smallest(found: Iterable[Card]) -> Card | None:
    """Return the card with the least memory, the first one of equal cards; None without cards."""
    return min(found, key=lambda card: card.memory, default=None)


def next_larger(memory: float) -> Card | None:
    """Return the smallest card with at least ``memory`` bytes that this image supports, or None."""
    return smallest(
        card
        for card in CARDS.values()
        if card.memory >= memory and card.capability >= MIN_CAPABILITY
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "-", name.strip()).lower().removeprefix("nvidia-")
