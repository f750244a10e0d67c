"""Another job trains from a published base, or continues from a published adapter, by digest.

The signed statement of its own adapter names the parent by the digest that was published.
"""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.apiserver import CONFIG
from tests.fakes.registry import Registry
from tests.support.published_facts import JOB, SPEC, facts, revision
from tests.support.signing_keys import KEY
from tests.support.trainer import publishing
from tests.support.trainer.publishing import Volume
from tests.support.trainer.web import Certificate
from tests.support.trainer.workshop import Workshop
from tests.trainer.conftest import MakeWorkshop

from finetune_api.contracts.job_config import JobConfig
from finetune_api.contracts.provenance import attestation
from finetune_operator.provenance import signed
from finetune_operator.provenance.statement import statement
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import resolve_target
from finetune_trainer.checkpointing import manifest
from finetune_trainer.volume_layout import Layout


def volume_of(workshop: Workshop) -> Volume:
    """Return the volume of a job that has trained and merged, for the publish stage."""
    layout = Layout(work=workshop.work)
    folders = (layout.base, layout.adapter, layout.merged(publishing.BUILD))
    base, adapter, merged = (manifest.read(folder).sha256 for folder in folders)
    job = JobConfig.model_validate(workshop.job)
    return Volume(job=job, layout=layout, base=base, adapter=adapter, merged=merged)


def weights(folder: Path) -> dict[str, str]:
    """Return the SHA-256 (hex) of the weights in a folder by their names."""
    found = {
        each.name: each.sha256
        for each in manifest.read(folder).files
        if each.name.endswith(".safetensors") and "quantization" not in each.name
    }
    assert found
    return found


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """A registry to which jobs publish."""

    repository: str
    certificate: Certificate
    settings: dict[str, str]
    """Of the prepare stages that read from the registry."""

    def publish(self, workshop: Workshop, what: str) -> str:
        """Publish a model, and return its reference by digest."""
        volume = volume_of(workshop)
        place = {"repository": self.repository, "ca": str(self.certificate.authority)}
        version = f"{workshop.folder.name}-{what}"
        done = publishing.run(volume, volume.target(what, oci=place, version=version))
        assert done.error is None, done.failure
        return f"oci://{done.only.reference}"


@pytest.fixture
def shelf(registry: Registry, certificate: Certificate, tmp_path: Path) -> Shelf:
    (tmp_path / "ca").mkdir()
    for kind in ("training.startFrom", "model"):
        shutil.copy(certificate.authority, tmp_path / "ca" / f"{kind}.crt")
    return Shelf(
        repository=f"{registry.host}/team/tiny",
        certificate=certificate,
        settings={"FINETUNE_CONFIG_DIR": str(tmp_path)},
    )


def test_a_job_trains_from_a_published_model(
    make: MakeWorkshop, done: Workshop, shelf: Shelf
) -> None:
    source = shelf.publish(done, "merged")
    child = make(model={"source": source})
    artifacts = child.succeed("prepare", **shelf.settings).result["artifacts"]
    child.succeed("train")
    assert artifacts["baseCommit"] == source.rpartition(":")[2]
    assert weights(child.work / "base") == weights(done.work / "merged-b1")
    assert manifest.read(child.work / "adapter").facts["source"] == source


def test_a_job_continues_from_a_published_adapter_and_its_statement_names_the_parent(
    make: MakeWorkshop, done: Workshop, shelf: Shelf
) -> None:
    source = shelf.publish(done, "adapter")
    child = make(training={"startFrom": {"source": source}})
    artifacts = child.succeed("prepare", **shelf.settings).result["artifacts"]
    child.succeed("train")
    child.succeed("merge", build=publishing.BUILD)
    assert artifacts["startCommit"] == source.rpartition(":")[2]
    published = shelf.publish(child, "adapter")
    found = statement_about(published, source, artifacts)
    inputs = found["predicate"]["buildDefinition"]["resolvedDependencies"]
    (parent,) = (each for each in inputs if each["name"] == "adapter to continue from")
    assert parent["uri"] == source
    assert parent["digest"] == {"sha256": source.rpartition(":")[2]}
    assert parent["annotations"]["content"] == manifest.read(child.work / "start").digest
    assert weights(child.work / "start") == weights(done.work / "adapter")


def statement_about(published: str, parent: str, artifacts: dict[str, Any]) -> dict[str, Any]:
    """Return what the operator signs about an adapter, read from its envelope.

    artifacts: those that the prepare stage has reported.
    """
    job = {**JOB, "spec": {**SPEC, "training": {"startFrom": {"source": parent}}}}
    target = resolve_target(job, Ledger(), CONFIG)
    record = revision(target)
    known = {"start_commit": artifacts["startCommit"], "start_digest": artifacts["startDigest"]}
    record = record.model_copy(update={"artifacts": record.artifacts.model_copy(update=known)})
    about = facts()
    publication = about.publication.model_copy(update={"digest": published.partition("@")[2]})
    about = replace(about, job=job, target=target, record=record, publication=publication)
    bundle = signed.bundle(statement(about), KEY)
    return attestation.statement(attestation.opened(json.dumps(bundle).encode()).payload)
