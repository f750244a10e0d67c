"""Trees of rows: tokens that rows have in common at their beginning are computed once.

Rows often begin with the same system prompt and the same tokens of the chat template. A tree has
one node for each distinct beginning of its rows. A token attends to its ancestors only, and its
position is its depth. So its hidden state is the same as in its row alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

FAMILIES = frozenset(
    {
        "gemma",
        "gemma2",
        "gemma3_text",
        "llama",
        "mistral",
        "phi",
        "phi3",
        "qwen2",
        "qwen3",
        "smollm3",
    }
)
"""Values of ``model_type`` with which the tests compare a tree with its rows."""
TREE_TOKENS = 512
"""Maximum size of a tree. A larger one would spend more time on its attention."""
ROOT = -1


@dataclass(kw_only=True)
class Tree:
    """Nodes of rows; a parent precedes its children.

    ids, depths, parents: token, position and parent of each node. paths: the nodes of each row, by
    row number.
    """

    ids: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    paths: dict[int, list[int]] = field(default_factory=dict)
    _nodes: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, number: int, row: Sequence[int]) -> None:
        """Add the nodes that a row does not share with the rows before it."""
        node, path = ROOT, []
        for depth, token in enumerate(row):
            parent, node = node, self._nodes.setdefault((node, token), len(self.ids))
            if node == len(self.ids):
                self.ids.append(token)
                self.depths.append(depth)
                self.parents.append(parent)
            path.append(node)
        self.paths[number] = path

    def missing(self, row: Sequence[int]) -> int:
        """Return the number of nodes that a row would add."""
        node = ROOT
        for depth, token in enumerate(row):
            if (node, token) not in self._nodes:
                return len(row) - depth
            node = self._nodes[node, token]
        return 0

    @property
    def is_chain(self) -> bool:
        """Whether the tree is one row, so that each token attends to all before it."""
        return len(self.paths) == 1

    def mask(self) -> torch.Tensor:
        """Return whether a token attends to another one: bool, (tokens, tokens)."""
        found = torch.eye(len(self.ids), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent != ROOT:
                found[node] |= found[parent]
        return found


def of_rows(rows: Sequence[Sequence[int]], config: Any) -> list[Tree]:
    """Return the trees of all rows for a model; each row alone if the model does not support trees.

    config: that of transformers. The mask of a tree has no sliding window, which matters only for
    rows that can be in a tree with others.
    """
    window = getattr(config, "sliding_window", None)
    longest = max((len(row) for row in rows if len(row) <= TREE_TOKENS), default=0)
    fits = window is None or longest <= window
    return grow(rows, limit=TREE_TOKENS if fits and config.model_type in FAMILIES else 0)


def grow(rows: Sequence[Sequence[int]], *, limit: int) -> list[Tree]:
    """Return trees of all rows, of at most ``limit`` nodes unless a row alone has more."""
    trees = [Tree()]
    # In this order, rows with a common beginning are neighbors.
    for number in sorted(range(len(rows)), key=lambda number: list(rows[number])):
        row = rows[number]
        if trees[-1].ids and len(trees[-1].ids) + trees[-1].missing(row) > limit:
            trees.append(Tree())
        trees[-1].add(number, row)
    return trees


def decoder_arguments(trees: Sequence[Tree], device: torch.device) -> dict[str, torch.Tensor]:
    """Return the arguments that pass trees to a decoder, padded on the right.

    Rows alone need only their ids: no token attends to those after it, so none attends to padding.
    Trees also need positions, and a mask of shape (trees, 1, tokens, tokens) that is added to the
    attention scores; padding attends to itself.
    """
    longest = max(len(tree.ids) for tree in trees)
    ids = torch.zeros(len(trees), longest, dtype=torch.long)
    for at, tree in enumerate(trees):
        ids[at, : len(tree.ids)] = torch.tensor(tree.ids)
    if all(tree.is_chain for tree in trees):
        return {"input_ids": ids.to(device)}
    depths = torch.zeros_like(ids)
    attended = torch.eye(longest, dtype=torch.bool).repeat(len(trees), 1, 1)
    for at, tree in enumerate(trees):
        size = len(tree.ids)
        depths[at, :size] = torch.tensor(tree.depths)
        attended[at, :size, :size] = tree.mask()
    mask = torch.zeros(attended.shape).masked_fill(~attended, -math.inf)
    return {
        "input_ids": ids.to(device),
        "position_ids": depths.to(device),
        "attention_mask": mask[:, None].to(device),
    }
