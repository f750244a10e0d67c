"""How a container gets a GPU, or none."""

from collections.abc import Mapping

from finetune_operator.config import GpuConfig

HIDDEN: Mapping[str, str] = {"NVIDIA_VISIBLE_DEVICES": "void"}
"""Variables of a container without a GPU: an image may otherwise see every GPU of its node."""
REQUIRED: Mapping[str, str] = {"FINETUNE_REQUIRE_GPU": "true"}
"""Variables of a trainer with a GPU: it fails if CUDA is unusable, instead of training for days on
the CPU."""


def limits(gpu_nodes: GpuConfig) -> dict[str, str]:
    """Return the limit of a container that gets one GPU."""
    return {gpu_nodes.resource_name: "1"}
