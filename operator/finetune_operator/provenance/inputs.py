"""The inputs of a model: base, datasets and images, as resource descriptors of SLSA."""

import re
from collections.abc import Iterator
from typing import Any

from finetune_api.revision_hash import text_digest
from finetune_api.v1alpha1.data.rows import Rows
from finetune_api.v1alpha1.status.ledger import ParentAdapter
from finetune_operator.objects.stages import PIPELINE
from finetune_operator.provenance.facts import Facts, Values, dumped, present, sha256

LONGEST_URI = 128
"""Characters of a source in a statement that would be too long otherwise."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_IMAGE = re.compile(r"(?:[a-z-]+://)?(?P<name>[^@]+)@sha256:(?P<digest>[0-9a-f]{64})")


def dependencies(facts: Facts, *, brief: bool = False) -> list[Values]:
    """Return base, adapter to continue from, datasets, and the images of the stages.

    brief: leave out how the datasets were read, and sources that are long texts.
    """
    datasets = map(_brief, _datasets(facts)) if brief else _datasets(facts)
    return [_base(facts), *_start(facts), *datasets, *_images(facts)]


def _brief(dataset: Values) -> Values:
    uri = str(dataset.get("uri", ""))
    return present(
        name=dataset["name"],
        uri=uri if len(uri) <= LONGEST_URI else f"urn:sha256:{text_digest(uri)}",
        digest=dataset.get("digest"),
    )


def _base(facts: Facts) -> Values:
    artifacts, model = facts.record.artifacts, facts.target.resolved.spec.model
    return _pinned(
        "base",
        model.source,
        artifacts.base_commit,
        requested_revision=model.revision,
        manifest=artifacts.base_manifest,
        bytes=artifacts.base_bytes,
    )


def _pinned(name: str, source: str, commit: str | None, **annotations: Any) -> Values:
    """Return a source. commit: of its repository, or another identifier of its content."""
    is_commit = commit is not None and _COMMIT.fullmatch(commit) is not None
    return present(
        name=name,
        uri=f"{source}@{commit}" if is_commit else source,
        digest=present(git_commit=commit) if is_commit else present(sha256=sha256(commit)),
        annotations=present(**annotations),
    )


def _start(facts: Facts) -> Iterator[Values]:
    """Yield the adapter that the training continued from."""
    artifacts, start = facts.record.artifacts, facts.target.resolved.spec.training.start_from
    if start is None or start.source is None:
        return
    yield _pinned(
        "adapter to continue from",
        start.source,
        artifacts.start_commit,
        requested_revision=start.revision,
        content=artifacts.start_digest,
        **_parent(facts.target.resolved.parent),
    )


def _parent(parent: ParentAdapter | None) -> Values:
    """Return the job that has published the adapter, if the spec names a job."""
    if parent is None:
        return {}
    revision = present(name=parent.revision, sha256=parent.revision_digest)
    return {"job": parent.job, "revision": revision, "published": parent.digest}


def _datasets(facts: Facts) -> Iterator[Values]:
    """Yield each dataset, and the prepared rows of all of them."""
    spec, data = facts.target.resolved.spec, facts.record.data
    written: list[tuple[str, Rows]] = []
    if spec.dataset is not None:
        written.append(("dataset", spec.dataset))
    written += [(f"datasets[{dataset.name}]", dataset) for dataset in spec.datasets or ()]
    if spec.evaluation.dataset is not None:
        written.append(("evaluation.dataset", spec.evaluation.dataset))
    sources = {entry.dataset: entry for entry in data.sources or ()}
    formats = {entry.dataset: entry for entry in data.formats or ()}
    for path, rows in written:
        source, format_ = sources.get(path), formats.get(path)
        # An earlier trainer image reports no commit; the spec may name it.
        commit = (source and source.commit) or rows.revision or rows.sha256 or ""
        yield _pinned(
            path,
            rows.source,
            commit,
            requested_revision=rows.revision,
            config=source and source.config,
            split=source and source.split,
            file_count=source and source.file_count,
            files=source and (source.files or None),
            format=format_ and format_.format,
        )
    artifacts = facts.record.artifacts
    yield present(
        name="prepared rows",
        uri="file:dataset/manifest.json",
        digest=present(sha256=artifacts.dataset_manifest),
        annotations=present(
            content=artifacts.dataset_digest,
            statistics=dumped(data, exclude={"sources", "formats", "tool_call_parser"}),
            chat_template=artifacts.effective_template,
        ),
    )


def _images(facts: Facts) -> Iterator[Values]:
    """Yield the image of each stage, as the container runtime has resolved it."""
    builds = (None,) if facts.place.what == "adapter" else (None, facts.target.build)
    stages = {stage.name for stage in PIPELINE}
    for attempt in facts.record.stages:
        if attempt.image_id is None or attempt.stage not in stages or attempt.build not in builds:
            continue
        match = _IMAGE.fullmatch(attempt.image_id)
        yield present(
            name=f"image of the stage {attempt.stage}",
            uri=f"oci://{match['name']}" if match else attempt.image_id,
            digest=present(sha256=match["digest"] if match else sha256(attempt.image_id)),
        )
