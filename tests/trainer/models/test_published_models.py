"""Published models go through all stages, and their files have the names that the trainer expects.

The stages run in a process of their own, because they change its environment.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.trainer.circles import run_to
from tests.support.trainer.workshop import Server
from tests.support.variants import variants

from families import layouts, results
from families.circle import Circle
from families.published import MODELS

KINDS = {
    "experts": "Mixtral",
    "linear attention in a model for text and images": "Qwen 3.5",
}
"""Models that `make test` runs, by kind. Other tests run plain models."""


@pytest.mark.parametrize("name", variants(MODELS, kept=KINDS.values()))
def test_model_is_trained_and_merged_as_the_table_says(
    servers: dict[str, Server], tmp_path: Path, name: str
) -> None:
    file = tmp_path / "result"
    process = servers["trl"].start(run_to, name, str(file))
    process.join(300)
    assert process.exitcode == 0
    found = Circle(**json.loads(file.read_text()))
    quantized = round(found.quantized, 2)
    assert (
        replace(found, difference=0.0, effect=0.0, quantized=quantized)
        == results.load().circles[name]
    )


def test_every_model_is_merged_or_rejected_before_a_gpu_is_requested() -> None:
    found = results.load().circles
    assert found.keys() == MODELS.keys()
    assert {name: each.broken for name, each in found.items() if each.broken} == {}


def test_names_of_every_known_layout_are_in_the_table() -> None:
    assert results.load().names.keys() == layouts.all_layouts().keys()


@pytest.mark.parametrize(
    "name", variants(sorted(layouts.all_layouts()), kept=["Gemma 3 4B, 12B, 27B"])
)
def test_names_in_a_published_index_are_those_of_the_table(name: str) -> None:
    assert layouts.rejection(layouts.all_layouts()[name]) == results.load().names[name]


def test_published_index_without_a_tensor_is_rejected() -> None:
    layout = layouts.all_layouts()["Mixtral"]
    names = dict(layout.names)
    del names["model.norm.weight"]
    assert "the weights lack model.norm.weight" in layouts.rejection(replace(layout, names=names))


def test_patterns_of_names_are_expanded() -> None:
    assert list(layouts.expanded("a.#.b.#", "0-1,3 7")) == ["a.0.b.7", "a.1.b.7", "a.3.b.7"]
    assert list(layouts.expanded("lm_head.weight", "")) == ["lm_head.weight"]
