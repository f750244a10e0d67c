"""Detection of the GPU with simulated answers of CUDA, because no test machine has a GPU."""

import re

import pytest
import torch
from tests.unit.docs.links import ROOT

from finetune_trainer.devices import capabilities, device
from finetune_trainer.devices.capabilities import Device
from finetune_trainer.devices.cards import CARDS, MIN_CAPABILITY, next_larger, smallest
from finetune_trainer.errors import Transient, UnsupportedGpu

TOO_OLD = "The NVIDIA driver on your system is too old (found version 12040). Please update"
INSUFFICIENT = "CUDA driver version is insufficient for CUDA runtime version"
NONE = "No CUDA GPUs are available"


def without_gpu(monkeypatch: pytest.MonkeyPatch, message: str | None) -> None:
    """Make CUDA find no GPU, and report a message."""

    def init() -> None:
        if message is not None:
            raise RuntimeError(message)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)


def with_gpu(monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)


@pytest.mark.parametrize(
    ("message", "error", "said"),
    [
        (NONE, Transient, f"CUDA reports: {NONE}"),
        (None, Transient, "is_available.. is False"),
        (TOO_OLD, UnsupportedGpu, "too old for this image, which needs R580 or later"),
        (INSUFFICIENT, UnsupportedGpu, f"CUDA reports: {INSUFFICIENT}"),
    ],
)
def test_a_required_gpu_that_cuda_cannot_use_is_an_error(
    monkeypatch: pytest.MonkeyPatch, message: str | None, error: type[Exception], said: str
) -> None:
    without_gpu(monkeypatch, message)
    assert device.detect() == Device(name="cpu", cuda=False), "no GPU is required"
    monkeypatch.setenv(device.REQUIRE_GPU, "true")
    with pytest.raises(error, match=said):
        device.detect()


def test_the_message_of_cuda_itself_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.setenv(device.REQUIRE_GPU, "true")
    with pytest.raises(Transient, match=r"CUDA reports: \S+.* (NVIDIA driver|CUDA)"):
        device.detect()


def test_the_variables_of_nvidia_do_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA images set NVIDIA_VISIBLE_DEVICES=all even without a GPU."""
    without_gpu(monkeypatch, NONE)
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", "all")
    assert not device.detect().cuda


def test_a_gpu_is_reported_as_its_node_label_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpu(monkeypatch, "NVIDIA A100-SXM4-40GB", (8, 0))
    found = device.detect()
    assert found.product == "NVIDIA-A100-SXM4-40GB"
    assert Device(name="cpu", cuda=False).product is None


@pytest.mark.parametrize(("capability", "supported"), [((7, 0), False), ((7, 5), True)])
def test_a_gpu_that_is_too_old_for_the_image_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], supported: bool
) -> None:
    with_gpu(monkeypatch, "GPU", capability)
    if supported:
        assert device.detect().capability == capability
        return
    with pytest.raises(UnsupportedGpu, match=r"GPU GPU has the compute capability 7\.0"):
        device.detect()


def test_the_oldest_supported_gpu_is_that_of_the_pinned_pytorch() -> None:
    flags = torch._C._cuda_getArchFlags()
    if flags is None:
        pytest.skip("this PyTorch was built without CUDA")
    major, minor = MIN_CAPABILITY
    assert min(int(flag.removeprefix("sm_")) for flag in flags.split()) == 10 * major + minor
    assert torch.version.cuda is not None
    assert torch.version.cuda.startswith("13."), "capabilities.MIN_DRIVER is the driver for CUDA 13"


@pytest.mark.parametrize(
    ("driver", "capability", "said"),
    [
        (None, None, None),
        (580, "7.5", None),
        (595, "12.0", None),
        (570, None, "selects nodes with the NVIDIA driver R570, but this image needs"),
        (None, "7.0", "the compute capability 7.0, but this image needs 7.5"),
    ],
)
def test_versions_in_node_labels_are_checked(
    driver: int | None, capability: str | None, said: str | None
) -> None:
    if said is None:
        capabilities.require_versions(driver, capability)
        return
    with pytest.raises(UnsupportedGpu, match=said):
        capabilities.require_versions(driver, capability)


def test_labels_of_the_image_are_the_requirements_that_the_trainer_checks() -> None:
    dockerfile = (ROOT / "Dockerfile.trainer").read_text()
    labels = dict(re.findall(r'dev\.finetune\.gpu\.([a-z-]+)="([^"]*)"', dockerfile))
    capability = ".".join(map(str, MIN_CAPABILITY))
    assert labels == {"min-driver": capabilities.MIN_DRIVER, "min-compute-capability": capability}


def test_the_smallest_card_decides_and_unsupported_ones_are_not_proposed() -> None:
    listed = [CARDS[name] for name in ("NVIDIA-L4", "NVIDIA-A10G", "NVIDIA-A10")]
    assert smallest(listed) == CARDS["NVIDIA-A10G"]
    assert smallest([]) is None
    proposed = next_larger(31.9 * 2**30)
    assert proposed is not None
    assert proposed.name == "NVIDIA-A100-PCIE-40GB", "not the V100 with 32 GB"
