"""Cards by the name that NVIDIA's GPU feature discovery labels a node with.

Memory is nvidia-smi's ``memory.total`` in MiB, with ECC as the card ships: an A10G of "24 GB" has
23,028 MiB, which is 22.49 GiB. Speed is the dense bfloat16 rate in TFLOP/s (float16 on cards that
have no bfloat16) of NVIDIA's data sheets.
"""

import re
from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Card:
    """A card. ``memory`` in bytes; ``tflops`` is None where it is not known."""

    name: str
    memory: int
    tflops: float | None = None

    @property
    def is_ampere(self) -> bool:
        """Whether it has bfloat16 and runs FlashAttention-2: Ampere and later, no Tesla."""
        return not self.name.startswith("Tesla-")

    @property
    def gib(self) -> float:
        """Memory in GiB."""
        return self.memory / 2**30


_TABLE = {
    "Tesla-T4": (15_360, 65.0),
    "Tesla-V100-SXM2-16GB": (16_384, 125.0),
    "Tesla-V100-SXM2-32GB": (32_768, 125.0),
    "NVIDIA-A10": (23_028, 125.0),
    "NVIDIA-A10G": (23_028, 70.0),
    "NVIDIA-L4": (23_034, 121.0),
    "NVIDIA-GeForce-RTX-3090": (24_576, 71.0),
    "NVIDIA-GeForce-RTX-4090": (24_564, 165.2),
    "NVIDIA-A40": (46_068, 149.7),
    "NVIDIA-L40S": (46_068, 362.0),
    "NVIDIA-RTX-A6000": (49_140, 154.8),
    "NVIDIA-A100-PCIE-40GB": (40_960, 312.0),
    "NVIDIA-A100-SXM4-40GB": (40_960, 312.0),
    "NVIDIA-A100-80GB-PCIe": (81_920, 312.0),
    "NVIDIA-A100-SXM4-80GB": (81_920, 312.0),
    "NVIDIA-H100-PCIe": (81_559, 756.0),
    "NVIDIA-H100-80GB-HBM3": (81_559, 989.0),
    "NVIDIA-H200": (143_771, 989.0),
}
CARDS = {
    name: Card(name=name, memory=mib * MIB, tflops=tflops) for name, (mib, tflops) in _TABLE.items()
}


def find(name: str) -> Card | None:
    """Return the card of a node label's value, however it is spelled, or None.

    A card that pods share by time slicing has its whole memory; a MIG slice is no card of the
    table.
    """
    wanted = _plain(re.sub(r"-SHARED$", "", name))
    return next((card for card in CARDS.values() if _plain(card.name) == wanted), None)


def next_larger(memory: float) -> Card | None:
    """Return the smallest card with at least this many bytes."""
    fitting = [card for card in CARDS.values() if card.memory >= memory]
    return min(fitting, key=lambda card: card.memory, default=None)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "-", name.strip()).lower().removeprefix("nvidia-")
