"""Names of the trained model's tensors, and the tensors of the base's files that they stand for.

transformers renames the tensors of some families as it loads them, and computes some parameters
from several tensors. Its own rules are applied here to names alone, so that every stage finds the
weights that the training uses. In the files of a multimodal base, the text model is a part of a
larger one: the rules give the names in the larger model, and its structure the place of the part.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_trainer.checkpointing.safetensors_header import Header, read_header
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.models import base_config, text_model


@dataclass(frozen=True, kw_only=True)
class TensorNames:
    """The tensors of a base that belong to the trained model.

    parameters: tensor in the files by parameter (or saved buffer) of the model, where both have the
    same values. converted: parameters that transformers computes from other tensors. written: name
    in the files of a merged model by tensor in the files of the base; other tensors are left out.
    """

    parameters: Mapping[str, str]
    converted: frozenset[str]
    written: Mapping[str, str]

    @property
    def stored(self) -> dict[str, str]:
        """Tensors in the files by name in the model; by name in the merged files if it has none."""
        names = {stored: name for name, stored in self.parameters.items()}
        return {names.get(stored, written): stored for stored, written in self.written.items()}

    def header(self, files: Header) -> Header:
        """Return the header of a base with the names of ``stored``."""
        tensors = {
            name: replace(files.tensors[stored], name=name) for name, stored in self.stored.items()
        }
        return Header(tensors=tensors, metadata=files.metadata)


def identity(files: Collection[str]) -> TensorNames:
    """Return the names of a model whose parameters are called like the tensors in its files."""
    names = {name: name for name in files}
    return TensorNames(parameters=names, converted=frozenset(), written=names)


def find(folder: Path, files: Collection[str]) -> TensorNames:
    """Return the names of the text model of a base. files: names of the tensors in its files.

    Raise InvalidSpec if transformers cannot build the model.
    """
    text = text_model.build(folder)
    if text_model.extracted(folder) is None:
        return replace(_loaded(text, files), written={name: name for name in files})
    whole = text_model.build_whole(folder)
    return _of_part(_loaded(whole, files), dict(_places(whole, text)))


def extraction(folder: Path) -> dict[str, Any] | None:
    """Return how the text model of a multimodal base was extracted; None for any other base.

    architecture: its class in transformers. names: as in ``_beginnings``. tied: whether its head
    shares the embedding.
    """
    options = loading_options(folder)
    if not options:
        return None
    return {
        "architecture": text_model.extracted(folder),
        "names": options["key_mapping"],
        "tied": options["config"].tie_word_embeddings,
    }


def loading_options(folder: Path) -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` that load the text model of a multimodal base."""
    if text_model.extracted(folder) is None:
        return {}
    header = read_header(folder, sorted(path.name for path in folder.glob("*.safetensors")))
    names = find(folder, header.tensors)
    return {"config": text_model.load_config(folder), "key_mapping": _beginnings(names)}


def _beginnings(names: TensorNames) -> dict[str, str]:
    """Return the beginnings of names in the files, as regular expressions, and of those in a model.

    transformers replaces them as it loads the model.
    """
    beginnings = {}
    for name, stored in names.parameters.items():
        ours, theirs = name.split("."), stored.split(".")
        while ours and theirs and ours[-1] == theirs[-1]:
            del ours[-1], theirs[-1]
        if ours != theirs:
            begins = "".join(f"{part}." for part in theirs)
            beginnings[f"^{re.escape(begins)}"] = "".join(f"{part}." for part in ours)
    return beginnings


def _loaded(model: Any, files: Collection[str]) -> TensorNames:
    """Apply the rules with which transformers loads a model."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, rename_source_key

    rules = get_model_conversion_mapping(model)
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    renamings = [rule for rule in rules if not isinstance(rule, WeightConverter)]
    prefix, state = model.base_model_prefix, model.state_dict()
    parameters: dict[str, str] = {}
    converted: set[str] = set()
    written: dict[str, str] = {}
    for stored in files:
        name, pattern = rename_source_key(stored, renamings, converters, prefix, state)
        if name not in state and stored in state:
            name, pattern = stored, None
        if name not in state:
            continue
        if pattern is None:
            parameters[name] = stored
            written[stored] = name
            continue
        written[stored] = rename_source_key(stored, renamings, [], prefix, state)[0]
        rule = next(rule for rule in converters if pattern in rule.source_patterns)
        first = rule.target_patterns[0]
        converted |= {name.replace(first, target, 1) for target in rule.target_patterns}
    return TensorNames(parameters=parameters, converted=frozenset(converted), written=written)


def _places(whole: Any, text: Any) -> Iterator[tuple[str, str]]:
    """Return where the parts of the text model are in the whole one: beginnings of names."""
    ours, theirs = text.get_decoder(), whole.get_decoder()
    if type(ours) is not type(theirs):
        raise InvalidSpec(
            f"the language model in {type(whole).__name__} is {type(theirs).__name__}, which the "
            f"trainer cannot train as {type(text).__name__}: {base_config.ADVICE}"
        )
    yield _path(whole, theirs), _path(text, ours)
    ours, theirs = text.get_output_embeddings(), whole.get_output_embeddings()
    if ours is not None and theirs is not None:
        yield _path(whole, theirs), _path(text, ours)


def _path(model: Any, part: Any) -> str:
    """Return the name of a module, with a dot at its end; nothing for the model itself."""
    name = next(name for name, module in model.named_modules() if module is part)
    return f"{name}." if name else ""


def _of_part(names: TensorNames, places: Mapping[str, str]) -> TensorNames:
    """Return the names of a part of a model."""

    def translated(name: str) -> str | None:
        for theirs, ours in places.items():
            if name.startswith(theirs):
                return ours + name.removeprefix(theirs)
        return None

    return TensorNames(
        parameters={
            ours: stored
            for name, stored in names.parameters.items()
            if (ours := translated(name)) is not None
        },
        converted=frozenset(
            ours for name in names.converted if (ours := translated(name)) is not None
        ),
        written={
            stored: ours
            for stored, name in names.written.items()
            if (ours := translated(name)) is not None
        },
    )
