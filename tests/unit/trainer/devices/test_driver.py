"""The version of the NVIDIA driver, from a simulated library: no test machine has a driver."""

import ctypes
from typing import Any

import pytest

from finetune_trainer.devices import driver


class Library:
    """NVML with a version; ``codes`` are the results of its functions, 0 for success."""

    def __init__(self, version: bytes = b"580.65.06", **codes: int) -> None:
        self._version, self._codes = version, codes
        self.ended = False

    def nvmlInit_v2(self) -> int:
        return self._codes.get("init", 0)

    def nvmlSystemGetDriverVersion(self, text: Any, length: ctypes.c_uint) -> int:
        assert len(text) == length.value
        text.value = self._version
        return self._codes.get("reading", 0)

    def nvmlShutdown(self) -> int:
        self.ended = True
        return 0


@pytest.mark.parametrize(
    ("library", "version"),
    [
        (Library(), "580.65.06"),
        (Library(init=9), None),
        (Library(reading=3), None),
        (Library(b""), None),
    ],
)
def test_version_of_the_driver(
    monkeypatch: pytest.MonkeyPatch, library: Library, version: str | None
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    assert driver.version() == version
    assert library.ended == (library._codes.get("init", 0) == 0)


def test_a_machine_without_the_library_has_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LIBRARY", "libnvidia-ml-that-does-not-exist.so.1")
    assert driver.version() is None
