"""Liger's loss and layers equal those of TRL and transformers, in Triton's interpreter."""

import inspect
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.trainer import architectures, backend_probe, tiny
from tests.support.trainer.faults import KilledAfterCheckpoint
from tests.support.trainer.hub import Hub
from tests.support.trainer.workshop import INTERPRETED, Server
from tests.support.variants import variants
from tests.trainer.checkpointing.test_resume import newest, prepared_copy
from tests.trainer.conftest import MakeWorkshop

from finetune_api.contracts.job_config import JobConfig
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.checkpointing import manifest
from finetune_trainer.compatibility import liger
from finetune_trainer.compatibility.backend_choice import Facts, choose
from finetune_trainer.estimate import backends, shape
from finetune_trainer.estimate.memory import Step
from finetune_trainer.volume.files import read_json

FIELD = "ligerFusedLinearCrossEntropy"
AUTO: dict[str, Any] = {"backend": "auto", "quantization": {"computeDtype": "bfloat16"}}
ALL, ONE = frozenset(liger.FAMILIES), frozenset({"llama"})
FEW = ("gemma3_text", "llama")
"""Families that have between them each kind of layer that Liger replaces."""
PACKED_TOKENS = 100
"""Tokens of the packed sequence of ``backend_probe.first_steps``."""


def recipe(*, fused: bool, **advanced: Any) -> Training:
    own = {FIELD: fused, "microBatchSize": 1, "quantization": {"computeDtype": "float32"}}
    lora = {"targetModules": ["all-linear"], "dropout": 0}
    changes = {"lora": lora, "advanced": tiny.merged(own, advanced)}
    job = tiny.job("hf://a/b", "hf://c/d", training=changes)
    return JobConfig.model_validate(job).training


@pytest.mark.parametrize(
    "families",
    variants([("llama",), sorted(liger.FAMILIES)], kept=[("llama",)]),
    ids=["one", "all"],
)
def test_step_of_each_family_is_that_of_the_loss_of_trl(
    servers: dict[str, Server], tmp_path: Path, families: frozenset[str]
) -> None:
    bases = {family: architectures.model(tmp_path / family, family) for family in sorted(families)}
    plain, fused = ({True: recipe(fused=fused)} for fused in (False, True))
    expected = backend_probe.ask(servers["trl"], backend_probe.first_steps, bases, plain)
    found, chunks = backend_probe.ask(
        servers[INTERPRETED], backend_probe.steps_with_liger, bases, fused
    )
    assert found.keys() == expected.keys()
    for key, step in found.items():
        assert isinstance(step, dict), step
        assert step["loss"] == pytest.approx(expected[key]["loss"], abs=1e-5), key
        difference = np.linalg.norm(step["gradients"] - expected[key]["gradients"])
        assert 0 < difference < 1e-4 * np.linalg.norm(expected[key]["gradients"]), key
    known = shape.read(read_json(bases["llama"] / "config.json"))
    assert known is not None
    step = Step(micro_batch=1, length=PACKED_TOKENS, packed=True, kernel="sdpa")
    assert max(chunks) == backends._liger_chunk(known, step, 4) / (4 * known.vocabulary) == 32


@pytest.mark.parametrize(
    "families",
    variants([FEW, sorted(liger.FAMILIES)], kept=[FEW]),
    ids=["few", "all"],
)
def test_layers_of_each_family_are_those_of_transformers(
    servers: dict[str, Server], tmp_path: Path, families: Collection[str]
) -> None:
    bases = {family: architectures.model(tmp_path / family, family) for family in families}
    layers = recipe(fused=False, ligerLayers=True)
    found = backend_probe.ask(servers[INTERPRETED], backend_probe.liger_layers, bases, layers)
    assert found.keys() == bases.keys()
    for family, (logits, gradients) in found.items():
        assert 0 < logits < 1e-5, family
        assert 0 < gradients < 1e-4, family


def test_liger_replaces_only_what_the_recipe_sets() -> None:
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    loss, layers = (
        liger.kernels(recipe(fused=fused, ligerLayers=not fused)) for fused in (True, False)
    )
    for family in liger.FAMILIES:
        parameters = inspect.signature(MODEL_TYPE_TO_APPLY_LIGER_FN[family]).parameters
        on = {name for name, each in parameters.items() if each.default is True}
        assert "fused_linear_cross_entropy" in on
        assert on <= loss.keys() == layers.keys(), family
    assert [name for name, on in loss.items() if on] == ["fused_linear_cross_entropy"]
    assert [name for name, on in layers.items() if on] == ["rope", "rms_norm", "swiglu", "geglu"]
    assert liger.kernels(recipe(fused=False)) == {}


@pytest.mark.exhaustive
def test_killed_training_with_liger_is_bit_identical(
    make: MakeWorkshop, servers: dict[str, Server]
) -> None:
    uninterrupted = make(
        dataset={"validationFraction": 0.2},
        training={
            "maxSteps": 4,
            "packing": "always",
            "sequenceLength": 160,
            "advanced": {FIELD: True, "saveSteps": 2, "evalSteps": 2},
        },
    )
    uninterrupted.succeed("prepare")
    killed = prepared_copy(make, uninterrupted)
    refused = killed.run("train")
    assert (refused.code, refused.result["reason"]) == (64, "InvalidSpec")
    assert f"training.advanced.{FIELD} is true, but Liger's kernel needs a GPU" in refused.message
    for workshop in (uninterrupted, killed):
        workshop.servers = {"trl": servers[INTERPRETED]}
    at_end = KilledAfterCheckpoint(step=4)
    for workshop, fault in (
        (uninterrupted, at_end),
        (killed, KilledAfterCheckpoint(step=2)),
        (killed, at_end),
    ):
        ended = workshop.with_fault(fault).run("train")
        assert ended.code == -9, ended.log
    assert "resuming from the checkpoint of step 2" in ended.log
    first, second = (newest(each) for each in (uninterrupted, killed))
    assert first.name == second.name == "step-4"
    for name in ("adapter_model.safetensors", "loss_history.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert len(manifest.read(first).facts["evaluations"]) == 1


def test_family_without_liger_is_refused_in_prepare(
    make: MakeWorkshop, hub: Hub, tmp_path: Path
) -> None:
    base = architectures.model(tmp_path / "phi", "phi")
    workshop = make(
        model={"source": hub.add("model", "demo/phi", base)},
        training={"advanced": {FIELD: True}},
    )
    ended = workshop.run("prepare")
    assert (ended.code, ended.result["reason"]) == (64, "InvalidSpec")
    assert "the base model is of family phi" in ended.message
    assert workshop.published() == []


def test_auto_selects_trl_for_liger() -> None:
    image = {"trl": "1", "unsloth": "2"}
    chosen = {
        fused: choose(Facts(recipe=recipe(fused=fused, **AUTO), image=image, family="llama")).name
        for fused in (False, True)
    }
    assert chosen == {False: "unsloth", True: "trl"}
