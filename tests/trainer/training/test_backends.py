"""Both backends get the same recipe and tensors, and packed rows do not attend to each other."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.trainer import architectures, backend_probe, tiny
from tests.support.trainer.faults import RecordsInputs
from tests.support.trainer.workshop import CUDA_SHAPED, Server
from tests.support.variants import variants
from tests.trainer.conftest import MakeWorkshop
from tests.trainer.training.test_recipe import (
    IN_LORA_CONFIG,
    IN_QUANTIZATION,
    IN_SFT_CONFIG,
    leaves,
    nested,
)

from finetune_api.contracts.job_config import JobConfig
from finetune_api.v1alpha1.training.advanced import Optimizer
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.checkpointing import manifest
from finetune_trainer.estimate import memory, shape
from finetune_trainer.volume.files import read_json

BACKENDS = ["trl", "unsloth"]
BUILT_IN = "nothing"
OTHERS: list[tuple[str, Any]] = [
    ("deterministic", True),
    ("advanced.microBatchSize", 2),
    ("advanced.attnImplementation", "eager"),
    ("advanced.neftuneNoiseAlpha", 5.0),
    ("advanced.loraplusLrRatio", 16.0),
    ("advanced.quantization.computeDtype", "float16"),
    *[("advanced.optimizer", name) for name in Optimizer.__args__],  # type: ignore[attr-defined]
]
CHANGES: dict[str, tuple[str, Any]] = {
    f"{field} {value}": (field, value)
    for field, value in [
        *[row[:2] for row in [*IN_SFT_CONFIG, *IN_LORA_CONFIG, *IN_QUANTIZATION]],
        *OTHERS,
    ]
}
ON_NO_MODEL = {
    "startFrom",
    "epochs",
    "maxSteps",
    "packing",
    "trainOn",
    "advanced.overlong",
    "advanced.earlyStoppingPatience",
    "advanced.backend",
    "advanced.evalSteps",
    "advanced.saveSteps",
    "advanced.tf32",
    # Unsloth rejects it, and test_liger tests it on TRL.
    "advanced.ligerFusedLinearCrossEntropy",
    "advanced.ligerLayers",
}
"""Fields that the stages or the shared training loop read, or that only a GPU needs."""
ONLY_ON_A_CARD = {
    "advanced.quantization.type fp4",
    "advanced.quantization.doubleQuant False",
    "advanced.quantization.computeDtype float16",
}
"""Fields that Unsloth does not support on a CPU."""
REFUSED_BY_UNSLOTH = {
    **dict.fromkeys(
        ONLY_ON_A_CARD, "the backend quantizes to nf4 with double quantization, computing"
    ),
    "advanced.attnImplementation eager": (
        "but the unsloth backend would use sdpa: set attnImplementation to auto"
    ),
}
"""What the message says about each field that Unsloth refuses on a CPU."""
AS_BUILT_IN = {
    "advanced.gradientCheckpointing False",
    "advanced.quantization.computeDtype bfloat16",
    "advanced.optimizer paged_adamw_8bit",
    # For a Llama model, these are the seven default modules.
    "lora.targetModules ['all-linear']",
}
"""Values that the recipe below has by default."""


def recipe(backend: str, changes: dict[str, Any]) -> Training:
    below = {"lora": {"r": 64}, "advanced": {"backend": backend}}
    job = tiny.job("hf://a/b", "hf://c/d", training=tiny.merged(below, changes))
    return JobConfig.model_validate(job).training


@pytest.fixture(scope="module")
def arrived(
    servers: dict[str, Server], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    base = tiny.model(tmp_path_factory.mktemp("arrived") / "base")
    found = {}
    for backend in BACKENDS:
        recipes = {name: recipe(backend, nested(*change)) for name, change in CHANGES.items()}
        recipes[BUILT_IN] = recipe(backend, {})
        found[backend] = backend_probe.ask(servers[backend], backend_probe.arrived, base, recipes)
    return found


def test_changes_cover_every_recipe_field() -> None:
    fields = {field for field, _ in CHANGES.values()}
    assert fields | ON_NO_MODEL == leaves(Training)
    assert not fields & ON_NO_MODEL


@pytest.mark.parametrize("name", [BUILT_IN, *CHANGES])
def test_recipe_field_has_the_same_effect_on_unsloth_and_trl(
    arrived: dict[str, Any], name: str
) -> None:
    on_trl, on_unsloth = arrived["trl"][name], arrived["unsloth"][name]
    if name in REFUSED_BY_UNSLOTH:
        assert REFUSED_BY_UNSLOTH[name] in on_unsloth
        assert "or set training.advanced.backend to trl" in on_unsloth
        return
    assert on_unsloth == on_trl
    if name != BUILT_IN and name not in AS_BUILT_IN:
        assert on_trl != arrived["trl"][BUILT_IN], "it changes nothing"


@pytest.mark.parametrize("saved", ["lm_head", "embed_tokens"])
def test_estimate_counts_extra_held_memory(
    arrived: dict[str, Any], tmp_path: Path, saved: str
) -> None:
    known = shape.read(read_json(tiny.model(tmp_path / "base") / "config.json"))
    assert known is not None
    name = f"lora.modulesToSave {[saved]}"
    plain, full = (recipe("trl", changes) for changes in ({}, nested(*CHANGES[name])))
    before, after = arrived["trl"][BUILT_IN]["held"], arrived["trl"][name]["held"]
    more = {part: after[part] - before[part] for part in before}
    trained = [memory.trained_parameters(known, each) for each in (plain, full)]
    assert more["weights"] == more["gradients"] == 4 * (trained[1] - trained[0])
    states = [memory.optimizer_bytes(known, each) for each in (plain, full)]
    assert more["states"] == states[1] - states[0]


def test_unsloth_writes_no_file_next_to_the_base(
    servers: dict[str, Server], tmp_path: Path
) -> None:
    base = tiny.model(tmp_path / "base")
    before = {path.name for path in base.iterdir()}
    after, places = backend_probe.ask(servers["unsloth"], backend_probe.moved, base)
    assert after == before
    assert places == ["base/input_embeddings.pt"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("on", [True, False])
def test_gradient_checkpointing_recomputes_activations(
    servers: dict[str, Server], tmp_path: Path, backend: str, on: bool
) -> None:
    asked = recipe(backend, {"advanced": {"gradientCheckpointing": on}})
    assert (
        backend_probe.ask(
            servers[backend], backend_probe.recomputed, tiny.model(tmp_path / "m"), asked
        )
        == on
    )


@pytest.mark.parametrize("libraries", [*BACKENDS, CUDA_SHAPED])
def test_neftune_adds_its_noise_once_and_in_training_only(
    servers: dict[str, Server], tmp_path: Path, libraries: str
) -> None:
    backend = "trl" if libraries == "trl" else "unsloth"
    alpha, length, hidden = 5, 100, tiny.SHAPE["hidden_size"]
    asked = recipe(backend, {"advanced": {"neftuneNoiseAlpha": alpha}})
    base = tiny.model(tmp_path / "base")
    trained, evaluated = backend_probe.ask(servers[libraries], backend_probe.noise, base, asked)
    # Of 6,400 uniform numbers, the largest is close to the bound. A sum of two has twice the bound.
    bound = alpha / (length * hidden) ** 0.5
    assert trained == pytest.approx(bound, rel=0.02)
    assert evaluated == 0


@pytest.mark.parametrize("packing", variants(["always", "never"], kept=["always"]))
def test_backends_get_the_same_tensors_at_every_step(make: MakeWorkshop, packing: str) -> None:
    seen: dict[str, Any] = {}
    prepared: list[dict[str, str]] = []
    for backend in BACKENDS:
        workshop = make(
            training={
                "maxSteps": 9,
                "effectiveBatchSize": 3 if packing == "always" else 6,
                "packing": packing,
                "sequenceLength": 160,
                "advanced": {"backend": backend, "microBatchSize": 3},
            }
        )
        workshop.succeed("prepare")
        path = workshop.folder / "inputs"
        ended = workshop.with_fault(RecordsInputs(path=path)).run("train")
        assert ended.code == 0, ended.log
        seen[backend] = pickle.loads(path.read_bytes())
        files = manifest.read(workshop.work / "dataset").files
        prepared.append({file.name: file.sha256 for file in files if file.name != "backend.json"})
    assert prepared[0] == prepared[1]
    assert "train.safetensors" in prepared[0]
    on_trl, on_unsloth = seen["trl"], seen["unsloth"]
    assert len(on_trl) == len(on_unsloth) == (9 if packing == "always" else 18)
    for theirs, ours in zip(on_trl, on_unsloth, strict=True):
        assert theirs.keys() == ours.keys() >= {"input_ids", "labels"}
        for name, value in ours.items():
            assert torch.equal(value, theirs[name]), name
    if packing == "always":
        assert all((each["position_ids"] == 0).sum() > 1 for each in on_trl)


@pytest.mark.parametrize(
    ("backend", "flash"), [*((backend, False) for backend in BACKENDS), ("trl", True)]
)
def test_packed_rows_do_not_attend_to_each_other(
    servers: dict[str, Server], tmp_path: Path, backend: str, flash: bool
) -> None:
    bases = {
        family: architectures.model(tmp_path / family, family) for family in architectures.FAMILIES
    }
    float32 = {"advanced": {"quantization": {"computeDtype": "float32"}}}
    asked = recipe(backend, {"lora": {"targetModules": ["all-linear"]}, **float32})
    found = backend_probe.ask(
        servers[backend], backend_probe.packed_against_separate, bases, asked, flash
    )
    assert found.keys() == bases.keys()
    for family, (apart, mixed) in found.items():
        print(f"{backend} {family} {flash=}: {apart:.1e} packed, {mixed:.1e} without borders")
        assert apart < 1e-5, family
        assert mixed > 1e-2, family
