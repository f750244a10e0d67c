"""Reads a FineTuneJob from a YAML file and resolves its defaults as the operator does."""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from finetune_api import KIND
from finetune_api.base import Values
from finetune_api.contracts.job_config import JobConfig
from finetune_api.defaulting import InvalidSpec as Unresolvable
from finetune_api.defaulting import Resolved, builtin_defaults, resolve
from finetune_api.outcome import merges
from finetune_trainer.errors import InvalidSpec

CHART_CARD = "NVIDIA-A10G"
"""The node selector of the chart's default placement."""
if TYPE_CHECKING:
    Base = yaml.SafeLoader
else:
    # libyaml, where PyYAML was built with it, reads ten times as fast.
    Base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Loader(Base):
    """Reads YAML as kubectl does: PyYAML alone reads ``2e-4`` as text, and ``on`` as true."""


Loader.yaml_implicit_resolvers = {
    first: [resolver for resolver in resolvers if resolver[0] != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


class StrictLoader(Loader):
    """Rejects a key that is set twice, as the API server does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping. Raises ConstructorError for a duplicate key."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                # The base class rejects lists and maps as keys.
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is set twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


STDIN = Path("-")
TEMPLATE = "{{"
"""Begin of an expression in a template of Helm."""
MAX_BYTES = 16 << 20
"""A manifest in a cluster has at most 1.5 MiB, and a file may contain several."""
MAX_VALUES = 100_000
"""Values, lists and objects of a file; PyYAML needs about 2 s for so many."""
MAX_DEPTH = 100
"""Nested lists and objects of a document. A FineTuneJob has less than 20."""
DEPTH_OF_LIBYAML = "exceeded maximum nesting depth"
"""libyaml, which reads ahead, has a limit of its own."""
MAX_REPEATED = 10_000
"""Values that the aliases of a file repeat. A few lines of aliases can repeat billions."""


@dataclass(frozen=True, kw_only=True)
class SpecFile:
    """One FineTuneJob of a file, and the ConfigMaps of the same file: name → key → text."""

    name: str
    namespace: str
    resolved: Resolved
    configmaps: dict[str, dict[str, str]]

    @property
    def merges(self) -> bool:
        """Whether the job makes a merged model."""
        return merges(self.resolved.spec)

    def job(self) -> JobConfig:
        """Return the job configuration that the operator would write to job.json."""
        spec = self.resolved.spec
        return JobConfig(
            namespace=self.namespace,
            name=self.name,
            revision=self.resolved.revision,
            digest=self.resolved.digest,
            model=spec.model,
            dataset=spec.common_dataset,
            datasets=spec.datasets,
            training=spec.training,
            evaluation_dataset=spec.evaluation.dataset,
        )


def read(path: Path) -> SpecFile:
    """Return the only FineTuneJob of a file. Raises InvalidSpec."""
    return of(load(path), at=str(path))


def of(documents: Sequence[dict[str, Any]], *, at: str, defaults: Values | None = None) -> SpecFile:
    """Return the only FineTuneJob of some objects. Raises InvalidSpec, which names ``at``.

    defaults: those of its profile over the built-in ones; by default the built-in ones.
    """
    metadata = group(_job(documents, at=at), "metadata")
    if not isinstance(metadata.get("name"), str):
        raise InvalidSpec(f"{at}: metadata.name is missing: set it")
    try:
        resolved = resolve(spec_in(documents, at=at), defaults or builtin_defaults())
    except Unresolvable as error:
        raise InvalidSpec(f"{at}: {error}") from None
    return SpecFile(
        name=metadata["name"],
        namespace=str(metadata.get("namespace", "default")),
        resolved=resolved,
        configmaps={
            str(document.get("metadata", {}).get("name")): dict(document.get("data") or {})
            for document in documents
            if document.get("kind") == "ConfigMap"
        },
    )


def spec_in(documents: Sequence[dict[str, Any]], *, at: str) -> dict[str, Any]:
    """Return the spec of the only FineTuneJob of some objects. Raises InvalidSpec."""
    return group(_job(documents, at=at), "spec")


def group(document: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a group of fields of an object, empty if there is none."""
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def _job(documents: Sequence[dict[str, Any]], *, at: str) -> dict[str, Any]:
    jobs = [document for document in documents if document.get("kind") == KIND]
    if len(jobs) != 1:
        raise InvalidSpec(f"{at} contains {len(jobs)} {KIND}s: it must contain exactly one")
    return jobs[0]


def load(path: Path, loader: type[Loader] = Loader) -> list[dict[str, Any]]:
    """Return the objects of a YAML file, or of stdin if the path is ``-``. Raises InvalidSpec."""
    text = ""
    try:
        text = _text(path)
        _check_size(text, loader, at=str(path))
        return [document for document in yaml.load_all(text, loader) if isinstance(document, dict)]
    except (OSError, ValueError, yaml.YAMLError) as error:
        # ValueError: text that is not UTF-8, and values that look like dates but are none.
        problem = " ".join(str(error).split())
        if DEPTH_OF_LIBYAML in problem:
            problem = f"it is nested more than {MAX_DEPTH} levels deep: remove levels"
        if TEMPLATE in text:
            problem += ". It looks like a template: render it, for example with helm template"
        raise InvalidSpec(f"{path} cannot be read: {problem}") from None


def flat(documents: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the objects, also those in lists, which ``kubectl get -o yaml`` prints."""
    for document in documents:
        items = document.get("items")
        if str(document.get("kind")).endswith("List") and isinstance(items, list):
            yield from flat([item for item in items if isinstance(item, dict)])
        else:
            yield document


def _text(path: Path) -> str:
    """Return the text of a file or of stdin. Raises InvalidSpec if it is larger than a manifest."""
    if path == STDIN:
        text = sys.stdin.read(MAX_BYTES + 1)
        size = len(text)
    else:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        size = len(data)
        text = data.decode() if size <= MAX_BYTES else ""
    if size > MAX_BYTES:
        raise InvalidSpec(
            f"{path} cannot be read: it is larger than {MAX_BYTES >> 20} MiB, so it is not a "
            "manifest: name another file, or move rows and other data to another folder"
        )
    return text


def _check_size(text: str, loader: type[Loader], *, at: str) -> None:
    """Raise InvalidSpec if a text is nested too deeply, or if its aliases repeat too much."""
    sizes: dict[str, int] = {}
    # The collections that are open: their anchor, and their values until now.
    opened: list[tuple[str | None, int]] = [(None, 0)]
    repeated = 0
    for count, event in enumerate(yaml.parse(text, loader)):
        if count > MAX_VALUES:
            raise InvalidSpec(
                f"{at} cannot be read: it has more than {MAX_VALUES} values, so it is not a "
                "manifest: name another file, or move data to another folder"
            )
        assert event.start_mark is not None, "PyYAML marks each event"
        line = event.start_mark.line + 1
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, 1))
            if len(opened) > MAX_DEPTH:
                raise InvalidSpec(
                    f"{at} cannot be read: line {line} is nested more than {MAX_DEPTH} levels "
                    "deep: remove levels"
                )
            continue
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in opened):
                raise InvalidSpec(
                    f"{at} cannot be read: the alias *{event.anchor} in line {line} contains "
                    "itself: replace the alias with its value"
                )
            anchor, size = None, sizes.get(str(event.anchor), 0)
            repeated += size
            if repeated > MAX_REPEATED:
                raise InvalidSpec(
                    f"{at} cannot be read: up to line {line}, aliases repeat more than "
                    f"{MAX_REPEATED} values: replace the aliases with their values"
                )
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = opened.pop()
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        outer, values = opened[-1]
        opened[-1] = outer, values + size
