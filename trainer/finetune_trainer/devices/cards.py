"""GPU cards, keyed by the node label ``nvidia.com/gpu.product`` of GPU feature discovery.

Memory is ``memory.total`` of nvidia-smi in MiB with ECC as shipped: a "24 GB" A10G has 23,028 MiB =
22.49 GiB. Speed is the dense bfloat16 rate in TFLOP/s (float16 for cards without bfloat16) from
NVIDIA's data sheets. The compute capability is from developer.nvidia.com/cuda-gpus.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

MIB = 1024 * 1024
SHARED = "-SHARED"
"""Suffix of the product label of a time-sliced card."""
MIG_USABLE = 0.9
"""Usable share of the memory of a MIG device. ``nvidia-smi mig -lgip`` lists 9.75 GiB for an eighth
of an H100 (98 %), and 4.75 GiB for an eighth of an A100 with 40 GB (95 %)."""
MIG_PARTS = {"NVIDIA-A30": 4}
"""Parts of the processors of a card, of which a MIG device has some; other cards have 7."""
SIMILARITY = 0.8
"""Similarity from which a name is suggested. Below it, names of other cards are similar, too."""
AMPERE = (8, 0)
"""Compute capability from which a card has bfloat16 and runs FlashAttention-2."""
MIN_CAPABILITY = (7, 5)
"""Turing, the oldest architecture in the PyTorch and bitsandbytes of this image (CUDA 13)."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """A GPU card: memory in bytes, TFLOP/s (None: unknown), and the compute capability of CUDA."""

    name: str
    memory: int
    tflops: float | None = None
    capability: tuple[int, int] = (8, 0)
    shared: bool = False
    """Whether other pods use the memory of this card, too (time-slicing)."""

    @property
    def is_ampere(self) -> bool:
        """Whether the card is Ampere or later: it has bfloat16 and runs FlashAttention-2."""
        return self.capability >= AMPERE

    @property
    def gib(self) -> float:
        """Memory in GiB."""
        return self.memory / 2**30


_TABLE: dict[str, tuple[int, float | None, tuple[int, int]]] = {
    "Tesla-T4": (15_360, 65.0, (7, 5)),
    "Tesla-V100-SXM2-16GB": (16_384, 125.0, (7, 0)),
    "Tesla-V100-SXM2-32GB": (32_768, 125.0, (7, 0)),
    "NVIDIA-A10": (23_028, 125.0, (8, 6)),
    "NVIDIA-A10G": (23_028, 70.0, (8, 6)),
    "NVIDIA-L4": (23_034, 121.0, (8, 9)),
    "NVIDIA-GeForce-RTX-3090": (24_576, 71.0, (8, 6)),
    "NVIDIA-GeForce-RTX-4090": (24_564, 165.2, (8, 9)),
    "NVIDIA-A30": (24_576, 165.0, (8, 0)),
    "NVIDIA-GeForce-RTX-5090": (32_607, 209.5, (12, 0)),
    "NVIDIA-A40": (46_068, 149.7, (8, 6)),
    "NVIDIA-L40": (46_068, 181.0, (8, 9)),
    "NVIDIA-L40S": (46_068, 362.0, (8, 9)),
    "NVIDIA-RTX-A6000": (49_140, 154.8, (8, 6)),
    "NVIDIA-A100-PCIE-40GB": (40_960, 312.0, (8, 0)),
    "NVIDIA-A100-SXM4-40GB": (40_960, 312.0, (8, 0)),
    "NVIDIA-A100-80GB-PCIe": (81_920, 312.0, (8, 0)),
    "NVIDIA-A100-SXM4-80GB": (81_920, 312.0, (8, 0)),
    "NVIDIA-H100-PCIe": (81_559, 756.0, (9, 0)),
    "NVIDIA-H100-80GB-HBM3": (81_559, 989.0, (9, 0)),
    "NVIDIA-H100-NVL": (95_830, 835.0, (9, 0)),
    "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition": (97_887, None, (12, 0)),
    "NVIDIA-RTX-PRO-6000-Blackwell-Workstation-Edition": (97_887, None, (12, 0)),
    "NVIDIA-RTX-PRO-6000-Blackwell-Max-Q-Workstation-Edition": (97_887, None, (12, 0)),
    "NVIDIA-H200": (143_771, 989.0, (9, 0)),
    "NVIDIA-B200": (183_359, 2_250.0, (10, 0)),
}
CARDS = {
    name: Card(name=name, memory=mib * MIB, tflops=tflops, capability=capability)
    for name, (mib, tflops, capability) in _TABLE.items()
}


def find(name: str) -> Card | None:
    """Return the card that a ``nvidia.com/gpu.product`` label value names, or None.

    The comparison ignores case, the vendor prefix and separators. A time-sliced card (``-SHARED``)
    counts with its whole memory, because its pods share it without limits. A MIG device
    (``-MIG-1g.10gb``) has a part of a card.
    """
    whole, mig, profile = name.removesuffix(SHARED).partition("-MIG-")
    wanted = _plain(whole)
    card = next((card for card in CARDS.values() if _plain(card.name) == wanted), None)
    if card is None:
        return None
    if mig:
        card = _mig_device(card, profile)
    return card and replace(card, shared=name.endswith(SHARED))


def similar(name: str) -> list[str]:
    """Return the cards whose names contain a name, or else those with a similar name."""
    wanted = _plain(name)
    names = {_plain(card): card for card in CARDS}
    close = difflib.get_close_matches(wanted, names, cutoff=SIMILARITY)
    return [names[plain] for plain in names if wanted in plain] or [names[plain] for plain in close]


def _mig_device(card: Card, profile: str) -> Card | None:
    """Return the device of a MIG profile; None for an unknown profile.

    ``2g.20gb`` has 2 parts of the processors, and the eighths of the memory that make 20 GB.
    """
    match = re.fullmatch(r"([1-7])g\.(\d+)gb(\.me)?", profile)
    if match is None:
        return None
    eighths = round(8 * int(match[2]) / card.gib)
    if not 1 <= eighths <= 8:
        return None
    return replace(
        card,
        name=f"{card.name}-MIG-{profile}",
        memory=int(card.memory * eighths / 8 * MIG_USABLE),
        tflops=card.tflops and card.tflops * int(match[1]) / MIG_PARTS.get(card.name, 7),
    )


def smallest(cards: Iterable[Card]) -> Card | None:
    """Return the card with the least memory, the first one of equal cards; None without cards."""
    return min(cards, key=lambda card: card.memory, default=None)


def next_larger(memory: float) -> Card | None:
    """Return the smallest card with at least ``memory`` bytes that this image supports, or None."""
    return smallest(
        card
        for card in CARDS.values()
        if card.memory >= memory and card.capability >= MIN_CAPABILITY
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "-", name.strip()).lower().removeprefix("nvidia-")
