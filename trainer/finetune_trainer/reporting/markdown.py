"""Markdown with a metadata block, as model hubs read it."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from finetune_api.contracts.job_config import JobConfig

FILE = "README.md"


def front_matter(job: JobConfig, source: str, *, relation: str, **metadata: Any) -> str:
    """Return the metadata block of a model. source, relation: as in ``metadata_of``."""
    everything = metadata | metadata_of(job, source, relation=relation)
    return f"---\n{yaml_text(everything)}---\n"


def metadata_of(job: JobConfig, source: str, *, relation: str) -> dict[str, Any]:
    """Return the metadata of a model. source: of its base; relation: to this base."""
    metadata: dict[str, Any] = {"pipeline_tag": "text-generation"}
    # A hub accepts repository names only.
    if source.startswith("hf://"):
        metadata |= {"base_model": repository(source), "base_model_relation": relation}
    sources = [rows.source for rows in job.rows_of_training.values()]
    if repositories := [repository(address) for address in sources if address.startswith("hf://")]:
        metadata["datasets"] = list(dict.fromkeys(repositories))
    return metadata


def images(recorded: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Yield rows with the images of the stages. recorded: by stage; empty without an operator."""
    for stage, image in recorded.items():
        yield f"image of the {stage} stage", f"`{image}`"


def continued_from(start: Mapping[str, Any] | None) -> Iterable[tuple[str, str]]:
    """Yield rows with the adapter that the training continued from. start: ``START_FACT``."""
    if start is None:
        return
    yield "continued from", f"`{start['source']}`"
    if "job" in start:
        yield "job and revision of that adapter", f"`{start['job']}`, `{start['revision']}`"
        yield "published digest of that adapter", f"`{start['published']}`"
    yield "digest of that adapter", f"`{start['digest']}`"
    if start["commit"]:
        yield "commit of that adapter", f"`{start['commit']}`"


def table(rows: Iterable[tuple[str, ...]], *, header: tuple[str, ...] = ("", "")) -> str:
    """Return a table."""
    lines = [f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def repository(source: str) -> str:
    """Return the name of a repository on a hub, or any other source as it is."""
    return source.removeprefix("hf://")


def sources_of(job: JobConfig) -> str:
    """Return the sources of all training datasets."""
    return ", ".join(f"`{rows.source}`" for rows in job.rows_of_training.values())


def yaml_text(value: Any) -> str:
    """Return a JSON value as YAML."""
    # Strings that YAML could read as something else are quoted by the dumper itself.
    return yaml.safe_dump(json.loads(json.dumps(value)), sort_keys=False, allow_unicode=True)
