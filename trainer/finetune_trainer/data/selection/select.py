"""The files of the configuration and the split that a job names. Ambiguity is refused.

``select`` decides from the names of all files and the texts of the card, so a job is refused before
its data are downloaded.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NoReturn

from finetune_api.safety.redaction import one_line
from finetune_api.v1alpha1.data.rows import Rows
from finetune_api.v1alpha1.sources import HF_SOURCE_PREFIX, Kind
from finetune_trainer.data.rows.readers import READ, SUFFIXES
from finetune_trainer.data.selection import card, file_names, patterns
from finetune_trainer.data.selection.card import Configuration
from finetune_trainer.errors import DatasetInvalid

NOT_DATA = {
    "config.json",
    "dataset_dict.json",
    "dataset_info.json",
    "dataset_infos.json",
    "state.json",
}
MOST_PATTERNS = 1000
"""Patterns of one split; a path without ``*`` and so on does not count."""
MOST_CHOICES = 20
MOST_FILES = 6
"""Choices and files that a message lists."""
NAME_LENGTH = 80
ARCHIVED = re.compile(r"\.(arrow|(parquet|jsonl|ndjson|json|csv)\.(zst|bz2|xz|zip|7z))$")
"""Files with rows in a form that is not read."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The files to read, in order. config: None if the source has no configurations."""

    config: str | None
    split: str
    files: tuple[str, ...]


def select(names: Iterable[str], texts: Mapping[str, str], rows: Rows, kind: Kind) -> Selection:
    """Return the files that a job reads. Raises DatasetInvalid.

    names: all files of the source; texts: those of its card (``card.FILES``).
    """
    return _Selector(sorted(names), rows, kind).selection(texts)


class _Selector:
    def __init__(self, names: Sequence[str], rows: Rows, kind: Kind) -> None:
        self._names, self._rows, self._kind = names, rows, kind
        self._what = f"{kind} {rows.source.removeprefix(HF_SOURCE_PREFIX)}"
        self._on_hub = rows.source.startswith(HF_SOURCE_PREFIX)

    def selection(self, texts: Mapping[str, str]) -> Selection:
        data = [name for name in self._names if _is_data(name)]
        if not data:
            others = f" (it has {_few(self._names, MOST_FILES)})" if self._names else ""
            raise DatasetInvalid(
                f"{self._what} has no data file{others}. Supported formats: {READ}. If the files "
                "are in an archive, unpack the archive"
            )
        try:
            declared = card.configurations(texts)
        except card.InvalidCard as error:
            raise DatasetInvalid(
                f"the card of {self._what} cannot be read: {error}. Correct the metadata, or set "
                f"{self._kind}.source to a copy with correct metadata"
            ) from None
        if not declared:
            return self._undeclared(data)
        config = self._configuration(declared)
        if config.patterns is None:
            return self._selected(config.name, self._files_below(config, data))
        files = tuple(self._declared_files(config, config.patterns))
        return Selection(config=config.name, split=self._rows.split, files=files)

    def _configuration(self, declared: list[Configuration]) -> Configuration:
        names = [config.name for config in declared]
        wanted = self._rows.config
        if wanted is None:
            defaults = card.defaults(declared)
            if len(defaults) == 1:
                return defaults[0]
            problem = (
                "declares several configurations as the default"
                if defaults
                else "has several configurations, and none of them is the default"
            )
            self._ambiguous(f"{self._what} {problem}: {_few(names)}", names[0])
        for config in declared:
            if config.name == wanted:
                return config
        return self._unknown(names)

    def _declared_files(
        self, config: Configuration, by_split: Mapping[str, tuple[str, ...]]
    ) -> list[str]:
        """Return the files of a split whose patterns the card declares."""
        if self._rows.split not in by_split:
            self._no_split(list(by_split), f" in the configuration {_shown(config.name)}")
        declared = by_split[self._rows.split]
        if sum(map(patterns.has_magic, declared)) > MOST_PATTERNS:
            raise DatasetInvalid(
                f"the card of {self._what} has more than {MOST_PATTERNS} patterns for the split "
                f"{self._rows.split}: use fewer patterns with '*'"
            )
        selected: dict[str, None] = {}
        named: set[str] = set()
        for pattern in declared:
            try:
                matched = patterns.matching(pattern, config.folder, self._names)
            except patterns.UnusablePattern as error:
                raise DatasetInvalid(
                    f"the card of {self._what} selects files with {_shown(pattern)}, but "
                    f"{error}: copy the files into one repository"
                ) from None
            if not matched and not patterns.has_magic(pattern):
                raise DatasetInvalid(
                    f"the card of {self._what} names the file {_shown(pattern)}, which does not "
                    "exist: correct the card, or copy the file into the repository"
                )
            if not patterns.has_magic(pattern):
                named.update(matched)
            # A file that two patterns match is read once.
            selected |= dict.fromkeys(
                name for name in matched if _base(name) not in NOT_DATA - {_base(pattern)}
            )
        readable = [name for name in selected if name.endswith(SUFFIXES)]
        # Without them, the job would train on a part of the declared rows.
        unreadable = [
            name
            for name in selected
            if name not in readable and (name in named or ARCHIVED.search(name))
        ]
        if unreadable or not readable:
            which = (
                f" (they are {_few(unreadable or list(selected), MOST_FILES)})" if selected else ""
            )
            what = "files that cannot be read" if unreadable else "no file that can be read"
            raise DatasetInvalid(
                f"the card of {self._what} selects {what} for the split {self._rows.split}{which}. "
                f"Supported formats: {READ}"
            )
        return readable

    def _files_below(self, config: Configuration, data: list[str]) -> list[str]:
        """Return the files of a split in a folder of which the card declares no splits."""
        try:
            prefix = "".join(f"{step}/" for step in patterns.steps_of(config.folder))
        except patterns.UnusablePattern as error:
            raise DatasetInvalid(
                f"the card of {self._what} selects the folder {_shown(config.folder)}, but "
                f"{error}: copy the files into one repository"
            ) from None
        below = [name.removeprefix(prefix) for name in data if name.startswith(prefix)]
        if not below:
            raise DatasetInvalid(
                f"the card of {self._what} selects the folder {_shown(config.folder)}, which has "
                f"no data file: correct the card. Supported formats: {READ}"
            )
        return [prefix + name for name in self._by_name(below)]

    def _undeclared(self, data: list[str]) -> Selection:
        """Return the files of a source without configurations in its card."""
        wanted, folders = self._rows.config, file_names.folders(data)
        if wanted is not None and wanted in folders:
            return self._selected(wanted, self._by_name(folders[wanted]))
        if wanted not in (None, card.DEFAULT):
            self._unknown([*(folders if len(folders) > 1 else ()), card.DEFAULT])
        files = self._by_name(data)
        if wanted is None:
            read = set(files)
            touched = [name for name, inner in folders.items() if not read.isdisjoint(inner)]
            if len(touched) > 1:
                whole = f", or {self._kind}.config: {card.DEFAULT} to read all of them"
                self._ambiguous(
                    f"the files of the split {self._rows.split} of {self._what} are in several "
                    f"folders, and no card ({card.README}) says which of them are one "
                    f"configuration: {_few(touched)}",
                    touched[0],
                    whole,
                )
        return self._selected(wanted, files)

    def _by_name(self, data: list[str]) -> list[str]:
        splits = file_names.splits(data)
        meant = file_names.meant(self._rows.split, splits)
        if not meant:
            self._no_split(list(splits.files), f". Its data files are: {_few(data, MOST_FILES)}")
        if len(meant) > 1:
            raise DatasetInvalid(
                f"{self._what} has several splits that {self._rows.split!r} can mean: "
                f"{_few(meant)}. Set {self._kind}.split to one of them"
            )
        return splits.files[meant[0]]

    def _selected(self, config: str | None, files: list[str]) -> Selection:
        """Return a selection with the files of one format: the first in ``SUFFIXES``."""
        formats = {name: _format(name) for name in files}
        first = next(suffix for suffix in SUFFIXES if suffix in formats.values())
        same = tuple(name for name in files if formats[name] == first)
        return Selection(config=config, split=self._rows.split, files=same)

    def _ambiguous(self, problem: str, first: str, whole: str = "") -> NoReturn:
        kind = self._kind
        if self._on_hub:
            raise DatasetInvalid(
                f"{problem}. Set {kind}.config to one of them, such as {kind}.config: "
                f"{one_line(first, NAME_LENGTH)}{whole}"
            )
        raise DatasetInvalid(
            f"{problem}. Set {kind}.source to the folder of one of them. To read all of them, add "
            f"a file {card.README} that begins with three lines: ---, then configs: "
            "[{config_name: default, data_files: '**'}], then ---"
        )

    def _unknown(self, names: list[str]) -> NoReturn:
        raise DatasetInvalid(
            f"{self._what} has no configuration {self._rows.config!r}. Set {self._kind}.config to "
            f"one that exists: {_few(names)}"
        )

    def _no_split(self, names: list[str], where: str) -> NoReturn:
        raise DatasetInvalid(
            f"{self._what} has no split {self._rows.split!r}{where}. Set {self._kind}.split to a "
            f"split that exists: {_few(names)}"
        )


def _is_data(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") for part in path.parts)
    special = any(part.startswith("__") for part in path.parts[:-1])
    return name.endswith(SUFFIXES) and path.name not in NOT_DATA and not hidden and not special


def _format(name: str) -> str:
    """Return the suffix of a data file, without that of its compression."""
    plain = name.removesuffix(".gz")
    return next(suffix for suffix in SUFFIXES if plain.endswith(suffix))


def _base(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _shown(name: str) -> str:
    return one_line(repr(name), NAME_LENGTH)


def _few(names: Sequence[str], most: int = MOST_CHOICES) -> str:
    shown = ", ".join(one_line(name, NAME_LENGTH) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
