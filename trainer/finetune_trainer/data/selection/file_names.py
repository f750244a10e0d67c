"""Splits and folders of a dataset whose card does not declare them, from the names of its files.

As for ``datasets``, a file belongs to a split if its name or a folder has a word such as ``train``.
Files with different words beside it, such as ``train_sft`` and ``train_gen``, are different splits.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile

from finetune_trainer.data.rows.readers import SUFFIXES

SPLIT_OF_WORD = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}
_SHARDED = re.compile(r"data/([^/]+)-[0-9]{5}-of-[0-9]{5}[^/]*\.[^/]*")
"""Files that ``datasets`` itself writes; the name of the split is in front of the number."""
_SHARD = re.compile(r"[-._ ]?[0-9]{1,9}[-._ ]of[-._ ][0-9]{1,9}")
_BETWEEN_WORDS = re.compile(r"[-._ 0-9]+")


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The files of each split. exact: whether only the complete name of a split selects it."""

    files: Mapping[str, list[str]]
    exact: bool


def splits(names: Iterable[str]) -> Splits:
    """Return the splits of one configuration. names: of its data files, sorted."""
    names = list(names)
    sharded = {name: match[1] for name in names if (match := _SHARDED.fullmatch(name))}
    if sharded:
        return Splits(files=_by_value(sharded), exact=True)
    labels = {name: label for name in names if (label := _label(name))}
    if labels:
        return Splits(files=_by_value(labels), exact=False)
    # As on the hub: if no file names a split, all files are the training split.
    return Splits(files={"train": names}, exact=True)


def meant(wanted: str, splits: Splits) -> list[str]:
    """Return the names of the splits that ``wanted`` can mean; one if it is unambiguous."""
    words = _words(wanted)
    if splits.exact or "_".join(words) in splits.files:
        name = wanted if splits.exact else "_".join(words)
        return [name] if name in splits.files else []
    split = SPLIT_OF_WORD.get("_".join(words))
    if split is None:
        return []
    equal = [name for name in splits.files if SPLIT_OF_WORD.get(name) == split]
    return equal or [name for name in splits.files if split in map(SPLIT_OF_WORD.get, _words(name))]


def folders(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the files by folder, without the folders that name splits; ``.`` is the outermost.

    names: at least one.
    """
    steps = {name: [step for step in _folders(name) if not _named(step)] for name in names}
    # What the first and the last folder have in common, all folders between them have, too.
    ends = zip(min(steps.values()), max(steps.values()), strict=False)
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))
    return _by_value({name: "/".join(parents[common:]) or "." for name, parents in steps.items()})


def _label(name: str) -> str:
    """Return the words of the file if they are a split; else those of the innermost folder or file.

    In a folder such as training_data, the names of the files say which of them are for training.
    """
    stem = name.rsplit("/", 1)[-1]
    stem = stem.removesuffix(next((suffix for suffix in SUFFIXES if stem.endswith(suffix)), ""))
    if (own := "_".join(_words(stem))) in SPLIT_OF_WORD:
        return own
    candidates = (*reversed(_folders(name)), stem)
    return next(("_".join(_words(candidate)) for candidate in candidates if _named(candidate)), "")


def _named(step: str) -> bool:
    return any(word in SPLIT_OF_WORD for word in _words(step))


def _words(text: str) -> list[str]:
    head = _SHARD.split(text.lower(), maxsplit=1)[0]
    return [word for word in _BETWEEN_WORDS.split(head) if word]


def _folders(name: str) -> list[str]:
    return name.split("/")[:-1]


def _by_value(values: Mapping[str, str]) -> dict[str, list[str]]:
    result: dict[str, list[str]] = {}
    for name, value in values.items():
        result.setdefault(value, []).append(name)
    return result
