"""`bench/gpu` without a GPU; `test_gpu_bundle.py` contains its dry run."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from bench.gpu import exact, pieces, tables
from bench.gpu.results import FAILED, OtherRun, Results
from bench.training.runs import Failed

from finetune_trainer.quantization import cuda_codes, nf4

ABOUT = {"machine": "a machine", "shape": "tiny", "memoryCap": None, "versions": {"torch": "1"}}


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


def test_interrupted_measurement_is_repeated_by_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    made: list[str] = []

    def quick(name: str) -> dict[str, Any]:
        made.append(name)
        return {"figure": 1}

    def slow() -> dict[str, Any]:
        time.sleep(30)
        raise AssertionError("the limit of time did not end it")

    measurements = {"a": lambda: quick("a"), "slow": slow, "b": lambda: quick("b")}
    for attempt in range(1, pieces.INTERRUPTIONS + 1):
        results = Results.resume(path, ABOUT)
        missing = pieces.run(measurements, results, path, seconds=0.2)
        assert Results.load(path).interrupted == {"slow": attempt}
        last = attempt == pieces.INTERRUPTIONS
        assert missing == (["b"] if last else ["slow", "b"])
        assert made == ["a"], "a result is not measured again"
    results = Results.resume(path, ABOUT)
    assert pieces.run(measurements, results, path, seconds=5) == []
    assert made == ["a", "b"]
    assert "not finished in 3 pieces" in Results.load(path).measured["slow"][FAILED]


def test_failed_training_does_not_end_the_run(tmp_path: Path) -> None:
    def fails() -> dict[str, Any]:
        raise Failed("train", ["training failed: no memory"])

    results = Results(about=ABOUT)
    measurements = {"memory/trl/default": fails, "nf4": dict}
    path = tmp_path / "results.json"
    assert pieces.run(measurements, results, path, seconds=None) == []
    assert "* memory/trl/default failed: no memory" in tables.render(Results.load(path))


def test_results_of_another_machine_are_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    Results(about=ABOUT).save(path)
    with pytest.raises(OtherRun, match=r"machine 'a machine' instead of 'another'.*--results"):
        Results.resume(path, ABOUT | {"machine": "another"})
    path.write_text("{}")
    with pytest.raises(ValueError, match="no results"):
        Results.load(path)


def test_tables_compare_with_the_default(tmp_path: Path) -> None:
    gib = 2**30
    memory = {"estimated": 21 * gib, "peak": 20 * gib, "secondsPerStep": 2.0}
    measured: dict[str, dict[str, Any]] = {
        "memory/trl/default": memory | {"tokensPerSecond": 1000.4},
        "memory/trl/plain script": memory | {"secondsPerStep": 3.0, "tokensPerSecond": 700.0},
        "repeat/trl/default": {"difference": exact.IDENTICAL, "secondsPerStep": 2.0},
        "repeat/trl/deterministic": {"difference": "differs", "secondsPerStep": 2.5},
        "settings/trl/packing": {"attention": "varlen", "log": ["stays on"]},
    }
    results = Results(about=ABOUT | {"memoryCap": 22 * gib}, measured=measured)
    text = tables.render(results)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert ["`trl`", "default", "21.00 GiB", "20.00 GiB", "+5.0 %", "1000", "+0.0 %"] in cells
    assert ["`trl`", "plain script", "21.00 GiB", "20.00 GiB", "-", "700", "+50.0 %"] in cells
    expected = ["`trl`", "deterministic", "differs", "not measured", "2.500", "+25.0 %"]
    assert expected in cells
    assert ["`trl`", "packing", "trained, attention varlen; stays on"] in cells
