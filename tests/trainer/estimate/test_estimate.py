"""The memory estimate, compared with traced training steps, and its use in the stages."""

import bench.estimate
import pytest
import torch
from bench.estimate import cases
from bench.estimate.cases import Row
from bench.estimate.trace import Live
from tests.support.variants import variants
from tests.trainer.conftest import MakeWorkshop
from trl.trainer import sft_trainer

from finetune_trainer.checkpointing import manifest
from finetune_trainer.estimate import backends

TOLERANCE = 0.07
SAMPLE = list(cases.sample())


@pytest.mark.filterwarnings("ignore:In CPU autocast, but the target dtype is not supported")
@pytest.mark.parametrize(
    "row",
    variants(SAMPLE, kept=SAMPLE[::3]),
    ids=lambda row: "-".join((row.model, row.note, str(row.length))),
)
def test_memory_formula_matches_a_traced_step(row: Row) -> None:
    found = bench.estimate.compare(row)
    assert found.estimated == pytest.approx(found.traced, rel=TOLERANCE)


def test_trace_adds_up_the_tensors_that_are_alive() -> None:
    live = Live(workspace=0)
    with live:
        one = torch.ones(1000)
        two = one + one
        del one
        three = two.view(10, 100)
    assert (live.now, live.peak) == (4000, 8000)
    del two, three
    assert live.now == 0


def test_chunk_of_logits_is_that_of_the_installed_trl() -> None:
    assert backends.TRL_CHUNK == sft_trainer._CHUNKED_LM_HEAD_CHUNK_SIZE


def test_training_uses_the_micro_batch_of_the_estimate(make: MakeWorkshop) -> None:
    workshop = make()
    prepared = workshop.succeed(
        "prepare", cards=["NVIDIA-A10G"], serving={"gpuMemoryUtilization": 0.88}
    )
    assert "of the 22.49 GiB of NVIDIA-A10G with micro-batch size 4" in prepared.message
    estimate = manifest.read(workshop.work / "dataset").facts["estimate"]
    assert estimate["card"] == "NVIDIA-A10G"
    assert estimate["microBatch"] == 4
    assert estimate["servingBytes"] > 0
    workshop.succeed("train")
    assert manifest.read(workshop.work / "adapter").facts["microBatch"] == 4


HALF = {"quantization": {"computeDtype": "float16"}}
"""The compute settings of a T4, which has no bfloat16."""


def test_training_that_does_not_fit_is_refused_before_the_download(make: MakeWorkshop) -> None:
    workshop = make(
        training={
            "sequenceLength": 1_048_576,
            "packing": "always",
            "advanced": {"microBatchSize": 4, **HALF},
        }
    )
    ended = workshop.run("prepare", cards=["Tesla-T4"])
    assert (ended.code, ended.result["reason"]) == (82, "DoesNotFit")
    assert "Tesla-T4 has 15.00 GiB" in ended.message
    assert workshop.published() == []
    assert not list(workshop.work.rglob("*.safetensors"))
    # On an unknown GPU, the same job is accepted.
    assert workshop.run("prepare", cards=["NVIDIA-Imaginary"]).code == 0


def test_serving_that_does_not_fit_is_refused_in_prepare(make: MakeWorkshop) -> None:
    workshop = make(training={"advanced": HALF})
    too_long = {"gpuMemoryUtilization": 0.001, "maxModelLen": 1048576}
    ended = workshop.run("prepare", cards=["Tesla-T4"], serving=too_long)
    assert (ended.code, ended.result["reason"]) == (82, "DoesNotFit")
    assert "serving needs about" in ended.message
    as_bfloat16 = {"gpuMemoryUtilization": 0.9, "dtype": "bfloat16"}
    ended = workshop.run("prepare", cards=["Tesla-T4"], serving=as_bfloat16)
    assert (ended.code, ended.result["reason"]) == (64, "InvalidSpec")
    assert "the serving pods compute in bfloat16 (set by merge.dtype" in ended.message
    assert workshop.run("prepare", cards=["Tesla-T4"]).code == 0


def test_a_volume_below_the_estimate_is_refused_before_the_download(make: MakeWorkshop) -> None:
    workshop = make()
    ended = workshop.run("prepare", volume_size="1Mi")
    assert (ended.code, ended.result["reason"]) == (73, "VolumeFull")
    assert "spec.storage.size is 1.0Mi: set spec.storage.size to at least " in ended.message
    assert not list(workshop.work.rglob("*.safetensors"))
    size = ended.message.rsplit(" ", 1)[1]
    assert workshop.run("prepare", volume_size=size).code == 0
