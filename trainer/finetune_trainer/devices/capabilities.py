"""What a device and this image can compute, and the checks of a recipe against device or card."""

from dataclasses import dataclass

from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.devices.cards import AMPERE, MIN_CAPABILITY, Card
from finetune_trainer.errors import InvalidSpec, UnsupportedGpu

MIN_DRIVER = "R580"
"""The oldest NVIDIA driver that runs CUDA 13."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """The device that trains. ``capability`` is CUDA's; (0, 0) on a CPU."""

    name: str
    cuda: bool
    capability: tuple[int, int] = (0, 0)

    @property
    def product(self) -> str | None:
        """The GPU as the node label nvidia.com/gpu.product names it; None for a CPU."""
        return "-".join(self.name.split()) if self.cuda else None


def check(recipe: Training, device: Device) -> None:
    """Raise InvalidSpec if this device cannot compute the recipe."""
    ampere = device.capability >= AMPERE
    _check(recipe, device.name, bfloat16=ampere or not device.cuda, flash=ampere)


def require_capability(name: str, capability: tuple[int, int]) -> None:
    """Raise UnsupportedGpu if a GPU is older than the architectures of this image."""
    if capability < MIN_CAPABILITY:
        actual, needed = (".".join(map(str, version)) for version in (capability, MIN_CAPABILITY))
        raise UnsupportedGpu(
            f"GPU {name} has the compute capability {actual}, but this image needs {needed} "
            "(Turing) or later: to select nodes with a newer GPU, set "
            "spec.placement.nodeSelector or the chart value gpu.products"
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
            f"spec.placement.nodeSelector selects nodes with the NVIDIA driver R{driver}, but this "
            f"image needs {MIN_DRIVER} or later (CUDA 13): update the driver, or select other "
            "nodes"
        )


def check_ahead(recipe: Training, card: Card | None) -> None:
    """Raise InvalidSpec, during data preparation, if the card or this image cannot compute it.

    card: None if no node label names a known card; it is then assumed to be Ampere or later. Raise
    UnsupportedGpu if this image does not support the card at all.
    """
    if card is not None:
        require_capability(card.name, card.capability)
    name = "the card" if card is None else card.name
    ampere = card is None or card.is_ampere
    _check(recipe, name, bfloat16=ampere, flash=ampere)


def _check(recipe: Training, name: str, *, bfloat16: bool, flash: bool) -> None:
    advanced = recipe.advanced
    if advanced.quantization.compute_dtype == "bfloat16" and not bfloat16:
        raise InvalidSpec(
            f"{name} does not support bfloat16: set training.advanced.quantization.computeDtype to "
            "float16, or use spec.placement to select an Ampere or later card"
        )
    if advanced.attn_implementation == "flash_attention_2" and not flash:
        raise InvalidSpec(
            f"training.advanced.attnImplementation is flash_attention_2, which {name} does not "
            "support: set attnImplementation to auto or sdpa, or use spec.placement to select an "
            "Ampere or later card"
        )


def uses_tf32(recipe: Training, device: Device) -> bool:
    """Report whether the recipe requests TensorFloat-32 and the device has it."""
    return recipe.advanced.tf32 and device.capability >= AMPERE


def scales_loss(recipe: Training, device: Device) -> bool:
    """Report whether training uses float16 autocast with loss scaling, which CPUs do not have."""
    return device.cuda and recipe.advanced.quantization.compute_dtype == "float16"
