"""The configurations that the card of a dataset declares (README.md), as ``datasets`` reads them.

The metadata of the card is the YAML between two lines ``---`` at the beginning. The library also
reads the file ``.huggingface.yaml``, whose keys replace those of the card.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api.safety.redaction import one_line
from finetune_api.v1alpha1.data.rows import CONFIG
from finetune_trainer.data.selection import untrusted_yaml

README, STANDALONE = "README.md", ".huggingface.yaml"
FILES = (README, STANDALONE)
"""Files with metadata; the keys of a later one replace those of an earlier one."""
DEFAULT = "default"
"""Name of the configuration that is selected without being named."""
_TRUE = ("true", "yes", "on")
_SPLIT = re.compile(r"\w+(\.\w+)*")


class InvalidCard(ValueError):
    """The metadata of a dataset cannot be read; the text names the file and the problem."""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A configuration: its folder, and the patterns of its files by split, relative to it.

    patterns: None if the names of the files in the folder say to which split they belong.
    """

    name: str
    folder: str
    patterns: Mapping[str, tuple[str, ...]] | None
    is_default: bool


def configurations(files: Mapping[str, str]) -> list[Configuration]:
    """Return the declared configurations. files: the texts of ``FILES`` that exist, by name."""
    metadata: dict[str, Any] = {}
    for name in FILES:
        text = files.get(name)
        block = _front_matter(text) if text is not None and name == README else text
        if block is None:
            continue
        try:
            document = untrusted_yaml.parse(block)
        except ValueError as error:
            raise InvalidCard(
                f"the metadata in {name} is invalid ({one_line(str(error))})"
            ) from None
        if document is not None and not isinstance(document, dict):
            raise InvalidCard(f"the metadata in {name} is not a mapping")
        metadata |= document or {}
    declared = metadata.get("configs") or []
    if not isinstance(declared, list):
        raise InvalidCard("'configs' in the metadata is not a list")
    configs = [_configuration(config) for config in declared]
    names = [config.name for config in configs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidCard(f"the metadata has the configuration {one_line(repr(twice))} twice")
    return configs


def defaults(declared: list[Configuration]) -> list[Configuration]:
    """Return the configurations that are the default; one if the job need not name another."""
    if len(declared) == 1:
        return declared
    return [config for config in declared if config.is_default or config.name == DEFAULT]


def _front_matter(text: str) -> str | None:
    """Return the metadata block of a card; None if it has none."""
    first, *lines = text.removeprefix("\ufeff").lstrip().splitlines() or [""]
    if first != "---" or "---" not in lines:
        return None
    return "\n".join(lines[: lines.index("---")])


def _configuration(declared: Any) -> Configuration:
    if not isinstance(declared, dict) or not isinstance(declared.get("config_name"), str):
        raise InvalidCard("an entry of 'configs' in the metadata has no config_name")
    name = declared["config_name"]
    if not re.fullmatch(CONFIG, name):
        raise InvalidCard(f"the name of the configuration {one_line(repr(name))} is not allowed")
    folder = declared.get("data_dir")
    if folder is not None and not isinstance(folder, str):
        raise InvalidCard(f"data_dir of the configuration {one_line(repr(name))} is not a text")
    marked = declared.get("default")
    return Configuration(
        name=name,
        folder=folder or "",
        patterns=_patterns(name, declared.get("data_files")),
        is_default=isinstance(marked, str) and marked.lower() in _TRUE,
    )


def _patterns(name: str, declared: Any) -> dict[str, tuple[str, ...]] | None:
    """Return the patterns by split: a text, a list of texts, or a list of splits with paths."""
    if declared is None:
        return None
    entries = [declared] if isinstance(declared, str) else declared
    if not isinstance(entries, list) or not entries:
        raise _unreadable(name)
    if not any(isinstance(entry, dict) for entry in entries):
        return {"train": _texts(name, entries)}
    patterns: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        if not isinstance(entry, dict) or entry.keys() != {"split", "path"}:
            raise _unreadable(name)
        split, paths = entry["split"], entry["path"]
        if not isinstance(split, str) or not _SPLIT.fullmatch(split) or split in patterns:
            raise _unreadable(name)
        patterns[split] = _texts(name, [paths] if isinstance(paths, str) else paths)
    return patterns


def _texts(name: str, texts: Any) -> tuple[str, ...]:
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise _unreadable(name)
    return tuple(texts)


def _unreadable(name: str) -> InvalidCard:
    return InvalidCard(
        f"data_files of the configuration {one_line(repr(name))} is not a list of paths, or of "
        "different splits with their paths"
    )
