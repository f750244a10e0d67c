"""The Triton kernels of Liger and Unsloth that a training launches compile for the supported GPUs.

Triton and its assembler need no GPU for it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.trainer import compiled_kernels

from finetune_trainer.compatibility import liger

SCRIPT = Path(compiled_kernels.__file__)
AMPERE_AND_LATER = ("80", "86", "89", "90", "100", "120")
TYPES = {"float16": ("75", *AMPERE_AND_LATER), "bfloat16": AMPERE_AND_LATER}
"""Architectures that train in a type: Turing has no bfloat16."""
NORMS = ("_rms_norm_forward_kernel", "_rms_norm_backward_kernel")
ROTARY, LOSS = "_triton_rope", "liger_cross_entropy_kernel"


def compile_kernels(
    folder: Path, what: str, dtype: str, *architectures: str
) -> dict[str, dict[str, int | str]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), what, dtype, *architectures],
        env=environment | {"TRITON_CACHE_DIR": str(folder), "CUDA_VISIBLE_DEVICES": ""},
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    found: dict[str, dict[str, int | str]] = json.loads(ended.stdout.splitlines()[-1])
    assert list(found) == list(architectures)
    for architecture, kernels in found.items():
        for kernel, size in kernels.items():
            assert isinstance(size, int), f"sm_{architecture}, {kernel}: {size}"
            assert size > 0
    return found


def test_a_kernel_compiles(tmp_path: Path) -> None:
    found = compile_kernels(tmp_path, "swiglu", "bfloat16", "80")
    assert list(found["80"]) == ["swiglu _swiglu_forward_kernel"]


@pytest.mark.exhaustive
@pytest.mark.parametrize(("dtype", "architectures"), TYPES.items())
def test_kernels_of_liger_compile(
    tmp_path: Path, dtype: str, architectures: tuple[str, ...]
) -> None:
    families = sorted(liger.FAMILIES)
    found = compile_kernels(tmp_path, ",".join(families), dtype, *architectures)
    for kernels in found.values():
        for family in families:
            names = {name.split()[1] for name in kernels if name.split()[0] == family}
            assert {*NORMS, ROTARY} <= names, family
            assert any("glu" in name for name in names), family
            # The loss is not available in float16.
            assert (LOSS in names) == (dtype == "bfloat16"), family


@pytest.mark.exhaustive
@pytest.mark.parametrize(("dtype", "architectures"), TYPES.items())
def test_kernels_of_unsloth_compile(
    tmp_path: Path, dtype: str, architectures: tuple[str, ...]
) -> None:
    found = compile_kernels(tmp_path, "unsloth", dtype, *architectures)
    for kernels in found.values():
        assert len(kernels) == 10, sorted(kernels)
