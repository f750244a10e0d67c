"""The two examples from the article agree with its settings; deviations have a reason.

The settings are those of "Practical QLoRA Fine-tuning: Axolotl & Unsloth",
https://tanhdev.com/series/slm-playbook/part-3-lora-qlora-tuning/ (read in November 2026).
"""

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from tests.unit.docs.links import ROOT
from tests.unit.trainer import shapes

from finetune_api.defaulting import effective_defaults, resolve
from finetune_cli.offline import estimate, job_file

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
INSTRUCT = "hf://meta-llama/Meta-Llama-3-8B-Instruct"


class Deviation(NamedTuple):
    """A value that differs from the article's; the manifest gives the reason in a comment."""

    article: Any
    job: Any


AXOLOTL: dict[str, Any] = {
    "model.source": INSTRUCT,
    "dataset.source": Deviation("./temp_cleaned_dataset.jsonl", "hf://tatsu-lab/alpaca"),
    "dataset.format": "alpaca",
    "dataset.promptTemplate": "alpaca",
    "dataset.validationFraction": 0.05,
    "training.epochs": 3,
    "training.learningRate": 0.0002,
    "training.effectiveBatchSize": 2 * 4,
    "training.sequenceLength": 8192,
    "training.packing": "always",
    "training.lora.r": 16,
    "training.lora.alpha": 32,
    "training.lora.dropout": 0.05,
    "training.lora.targetModules": LINEAR,
    "training.advanced.microBatchSize": 2,
    "training.advanced.padToSequenceLength": True,
    "training.advanced.attnImplementation": Deviation("flash_attention_2", "auto"),
    "training.advanced.gradientCheckpointing": Deviation(False, True),
    "training.advanced.optimizer": "paged_adamw_8bit",
    "training.advanced.lrSchedulerType": "cosine",
    "training.advanced.weightDecay": 0.01,
    "training.advanced.maxGradNorm": 1.0,
    "training.advanced.tf32": True,
    "training.advanced.quantization.type": "nf4",
    "training.advanced.quantization.doubleQuant": True,
    "training.advanced.quantization.computeDtype": "bfloat16",
    "training.advanced.evalSteps": 100,
    "training.advanced.saveSteps": 100,
    "training.advanced.loggingSteps": 10,
    "merge.enabled": True,
    "merge.dtype": Deviation("bfloat16", "auto"),
    "serving.maxModelLen": Deviation(None, 8192),
}
UNSLOTH: dict[str, Any] = {
    "model.source": INSTRUCT,
    "dataset.source": Deviation("temp_cleaned_dataset.jsonl", "hf://tatsu-lab/alpaca"),
    "dataset.format": "alpaca",
    "dataset.promptTemplate": Deviation("alpaca without input", "alpaca"),
    "dataset.validationFraction": 0,
    "training.epochs": None,
    "training.maxSteps": 120,
    "training.learningRate": 0.0002,
    "training.effectiveBatchSize": 2 * 4,
    "training.sequenceLength": 4096,
    "training.packing": "never",
    "training.trainOn": "all",
    "training.seed": 3407,
    "training.lora.r": 16,
    "training.lora.alpha": 32,
    "training.lora.dropout": 0,
    "training.lora.targetModules": LINEAR,
    "training.advanced.microBatchSize": 2,
    "training.advanced.gradientCheckpointing": True,
    "training.advanced.optimizer": "adamw_8bit",
    "training.advanced.lrSchedulerType": "linear",
    "training.advanced.warmupRatio": Deviation("10 steps", 0.0833),
    "training.advanced.weightDecay": 0.01,
    "training.advanced.quantization.type": "nf4",
    "training.advanced.quantization.doubleQuant": True,
    "training.advanced.saveSteps": Deviation(None, 60),
    "training.advanced.loggingSteps": 1,
    "merge.enabled": True,
    "merge.dtype": Deviation("bfloat16", "auto"),
    "serving.enabled": True,
}
EXAMPLES = {"llama3-8b-article": AXOLOTL, "llama3-8b-article-unsloth": UNSLOTH}


def text_of(name: str) -> str:
    return (ROOT / "examples" / f"{name}.yaml").read_text(encoding="utf-8")


def written(values: dict[str, Any], prefix: str = "") -> set[str]:
    """Return the paths of the fields that a manifest sets."""
    found = set()
    for key, value in values.items():
        nested = isinstance(value, dict) and key not in ("tokenSecretRef", "nodeSelector")
        found |= written(value, f"{prefix}{key}.") if nested else {prefix + key}
    return found


@pytest.mark.parametrize(("name", "settings"), EXAMPLES.items(), ids=EXAMPLES)
def test_the_examples_have_the_settings_of_the_article(name: str, settings: dict[str, Any]) -> None:
    spec = yaml.safe_load(text_of(name))["spec"]
    complete = resolve(spec, effective_defaults({})).spec.model_dump(mode="json", by_alias=True)
    found = {}
    for path in settings:
        value: Any = complete
        for step in path.split("."):
            value = value[step]
        found[path] = value
    expected = {
        path: value.job if isinstance(value, Deviation) else value
        for path, value in settings.items()
    }
    assert found == expected
    own = {"model.tokenSecretRef", "placement.nodeSelector"}
    assert written(spec) <= settings.keys() | own, "a field that the article does not have"


@pytest.mark.parametrize(("name", "settings"), EXAMPLES.items(), ids=EXAMPLES)
def test_each_deviation_has_a_reason(name: str, settings: dict[str, Any]) -> None:
    lines = text_of(name).splitlines()
    for path, value in settings.items():
        leaf = path.rsplit(".", 1)[-1]
        places = [at for at, line in enumerate(lines) if re.match(rf"\s+{leaf}:", line)]
        if path == "dataset.source":
            places = [at for at in places if "alpaca" in lines[at]]
        comment: list[str] = []
        for line in reversed(lines[: places[0]] if places else []):
            if not line.lstrip().startswith("#"):
                break
            comment.insert(0, line.strip(" #"))
        explained = " ".join(comment).startswith("The article ")
        deviates = isinstance(value, Deviation)
        if path == "model.source":
            continue
        assert explained is deviates, path
        assert not deviates or value.article != value.job


def test_memory_in_the_comment_is_that_of_the_estimate(tmp_path: Path) -> None:
    text = text_of("llama3-8b-article")
    (tmp_path / "config.json").write_text(json.dumps(shapes.LLAMA3_8B))

    def memory(checkpointing: str) -> str:
        job = yaml.safe_load(text)
        job["spec"]["training"]["advanced"] |= {
            "backend": "trl",
            "gradientCheckpointing": checkpointing == "on",
        }
        found = estimate.of(job_file.of([job], at="the example"), model=tmp_path)
        return f"{found.estimate.training.total / 2**30:.0f} GiB"

    comment = " ".join(re.findall(r"# (.*)", text))
    assert f"needs {memory('off')} of GPU memory instead of {memory('on')}" in comment


def test_the_warm_up_of_the_script_has_its_ten_steps() -> None:
    spec = yaml.safe_load(text_of("llama3-8b-article-unsloth"))["spec"]["training"]
    assert math.ceil(spec["maxSteps"] * spec["advanced"]["warmupRatio"]) == 10
