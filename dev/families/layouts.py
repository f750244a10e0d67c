"""The names of tensors in published repositories, against the model that a job trains.

The file has config.json and the names in model.safetensors.index.json of repositories that we could
read, with the SHA-256 of that index. An index has no shapes.
"""

from __future__ import annotations

import functools
import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.errors import InvalidSpec

FILE = Path(__file__).with_name("layouts.json")
SHARD = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A published repository. model: its name. index: SHA-256 of its index.

    names: patterns of names, in which each "#" is a number, with the ranges of the numbers.
    """

    model: str
    index: str
    config: Mapping[str, Any]
    names: Mapping[str, str]

    @property
    def tensors(self) -> list[str]:
        """The names of all tensors."""
        return [name for item in self.names.items() for name in expanded(*item)]


@functools.cache
def all_layouts() -> dict[str, Layout]:
    """Return the layouts by row of the table of published models."""
    layouts = json.loads(FILE.read_text(encoding="utf-8"))
    return {name: Layout(**fields) for name, fields in layouts.items()}


def expanded(pattern: str, ranges: str) -> Iterator[str]:
    """Yield the names of a pattern. ranges: of each "#", such as "0-3,6 0-7"."""
    parts = pattern.split("#")
    for numbers in itertools.product(*(list(_numbers(group)) for group in ranges.split())):
        yield "".join(
            part + str(number)
            for part, number in itertools.zip_longest(parts, numbers, fillvalue="")
        )


def _numbers(ranges: str) -> Iterator[int]:
    for span in ranges.split(","):
        first, _, last = span.partition("-")
        yield from range(int(first), int(last or first) + 1)


def rejection(layout: Layout) -> str:
    """Return the message with which ``prepare`` rejects a repository; empty if it accepts it.

    The tensors have the shapes of config.json, because their own are unknown.
    """
    from finetune_trainer.models import architecture, base_files, tensor_names

    names = layout.tensors
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / base_files.CONFIG).write_text(json.dumps(layout.config), encoding="utf-8")
        index = {"weight_map": dict.fromkeys(names, SHARD)}
        (folder / base_files.INDEX).write_text(json.dumps(index), encoding="utf-8")
        try:
            base_files.check_config(folder, source=layout.model)
            text_names = tensor_names.find(folder, names)
            header = _header(folder, names, text_names.parameters)
            architecture.check(folder, header, text_names, source=layout.model)
        except InvalidSpec as error:
            return str(error)
    return ""


def _header(folder: Path, names: list[str], parameters: Mapping[str, str]) -> Any:
    from finetune_trainer.checkpointing.safetensors_header import Header, TensorInfo
    from finetune_trainer.models import text_model

    state = text_model.build(folder).state_dict()
    shapes = {stored: tuple(state[name].shape) for name, stored in parameters.items()}
    tensors = {
        name: TensorInfo(
            name=name, file=SHARD, dtype="BF16", shape=shapes.get(name, ()), start=0, end=0
        )
        for name in names
    }
    return Header(tensors=tensors, metadata={})
