"""`bench/gpu` without a GPU."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bench.gpu import exact

from finetune_trainer.quantization import cuda_codes, nf4

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.exhaustive
def test_dry_run_without_a_gpu(tmp_path: Path) -> None:
    command = [sys.executable, "bench/gpu", "--shape", "tiny", "--device", "cpu"]
    command += ["--backends", "trl"]
    ended = subprocess.run(
        [*command, "--only", "memory", "nf4", "--folder", str(tmp_path)],
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    (row,) = re.findall(r"^\| `trl` +\|.*$", ended.stdout, re.MULTILINE)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert "GiB" in cells[1], "estimated"
    assert cells[2:5] == ["not measured"] * 3, "peaks are a card's"
    assert all(float(cell) > 0 for cell in cells[5:]), "tokens a second"
    assert ended.stdout.count("not measured") == 3 + 4


def test_quantization_is_compared_with_that_of_merges() -> None:
    torch.manual_seed(5)
    usual = torch.randn(32, 256).to(torch.bfloat16)

    def as_on_cuda(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        codes = cuda_codes.round_trip(weight, None, kind="nf4", block=64)[1]
        largest = weight.float().view(-1, 64).abs().amax(1)
        return codes, torch.where(largest < torch.finfo(torch.float32).tiny, 0.0, largest)

    weights = [*exact.faint(), usual]
    assert exact.agreement(weights, as_on_cuda) == ("3", "3", "3", "0")
    on_cpu = exact.agreement(weights, lambda weight: nf4.quantize(weight, block=64))
    assert on_cpu[:2] == ("3", "1"), "a device that does not flush subnormal numbers"
