"""Rows that are passed as trees get the hidden states of each row alone."""

import random
from types import SimpleNamespace

import pytest
import torch
from tests.support.trainer import architectures, tiny
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_trainer.evaluation import prefix_tree

DRAWN = random.Random(1)
START = [DRAWN.randrange(5, 200) for _ in range(20)]
ROWS = [
    START[: DRAWN.randrange(15, 20)] + [DRAWN.randrange(5, 200) for _ in range(length)]
    for length in (29, 3, 17, 8, 24, 11)
] + [START[:6]]
"""Rows with a common beginning of different lengths; the last one begins all others."""


def test_families_are_those_of_the_tests() -> None:
    assert architectures.FAMILIES.keys() == prefix_tree.FAMILIES


@pytest.mark.parametrize("family", architectures.FAMILIES)
def test_tree_has_the_hidden_states_of_each_row_alone(family: str) -> None:
    shape = tiny.SHAPE | architectures.ENDS | architectures.FAMILIES[family]
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, **shape), dtype=torch.float32, attn_implementation="sdpa"
    )
    decoder = model.eval().get_decoder()
    trees = prefix_tree.grow(ROWS, limit=60)
    assert len(trees) > 1, "trees of different sizes are padded"
    assert sum(len(tree.ids) for tree in trees) < sum(map(len, ROWS))
    with torch.no_grad():
        arguments = prefix_tree.decoder_arguments(trees, torch.device("cpu"))
        states = decoder(**arguments).last_hidden_state
        for at, tree in enumerate(trees):
            for number, path in tree.paths.items():
                alone = decoder(input_ids=torch.tensor([ROWS[number]])).last_hidden_state[0]
                assert (states[at, path] - alone).abs().max() < 1e-5


def test_trees_contain_each_row_once_within_the_limit() -> None:
    trees = prefix_tree.grow(ROWS, limit=60)
    assert sorted(number for tree in trees for number in tree.paths) == list(range(len(ROWS)))
    for tree in trees:
        assert len(tree.ids) <= 60
        for number, path in tree.paths.items():
            assert [tree.ids[node] for node in path] == ROWS[number]
            assert [tree.depths[node] for node in path] == list(range(len(path)))


@pytest.mark.parametrize(
    ("family", "window", "trees"),
    [("llama", None, 1), ("mistral", 512, 1), ("mistral", 40, 7), ("unknown", None, 7)],
)
def test_rows_are_alone_where_the_mask_of_a_tree_would_differ(
    family: str, window: int | None, trees: int
) -> None:
    config = SimpleNamespace(model_type=family, sliding_window=window)
    found = prefix_tree.of_rows(ROWS, config)
    assert len(found) == trees
    if trees == len(ROWS):
        arguments = prefix_tree.decoder_arguments(found, torch.device("cpu"))
        assert arguments.keys() == {"input_ids"}, "the model makes its own mask"


def test_long_row_alone_keeps_the_trees_of_the_other_rows() -> None:
    """A row that is too long for a tree has the mask of the model."""
    config = SimpleNamespace(model_type="mistral", sliding_window=512)
    found = prefix_tree.of_rows([*ROWS, [1] * 600], config)
    assert len(found) == 2
    assert [each.is_chain for each in found if len(each.ids) == 600] == [True]
