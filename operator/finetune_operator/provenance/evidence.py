"""What was measured about a model, as by-products in the terms of SLSA.

Each has a name, a URI that names its kind, and the values as annotations. Numbers have the form
that they have in the status.
"""

from collections.abc import Iterator

from finetune_api.contracts.provenance.attestation import BUILD_TYPE
from finetune_operator.provenance.facts import Facts, Values, dumped, present
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.publishing import publications


def byproducts(facts: Facts) -> list[Values]:
    """Return the folders of the volume, the training, the evaluation and the verification."""
    entries = [*_folders(facts), *_measured(facts)]
    return [entry for entry in entries if "digest" in entry or "annotations" in entry]


def _folders(facts: Facts) -> Iterator[Values]:
    """Yield the folder that was published, and the adapter in it, by their manifests."""
    record, what = facts.record, facts.place.what
    yield present(
        name=f"{what} on the volume",
        uri=f"file:{what}/manifest.json",
        digest=present(sha256=facts.publication.content),
    )
    if what != "adapter":
        yield present(
            name="adapter on the volume",
            uri="file:adapter/manifest.json",
            digest=present(sha256=record.artifacts.adapter_manifest),
        )
    yield present(
        name="reference of the verification",
        uri="file:reference/manifest.json",
        digest=present(sha256=record.artifacts.reference_manifest),
    )


def _measured(facts: Facts) -> Iterator[Values]:
    record = facts.record
    artifacts, backend = record.artifacts, record.backend
    yield _of_kind(
        "training",
        card=record.card,
        device=artifacts.device,
        driver=artifacts.driver,
        versions=artifacts.versions,
        attention=artifacts.attention,
        backend=dumped(backend, exclude={"automatic"}),
        gpu_seconds=record.gpu_seconds,
        gpu_seconds_lost=record.gpu_seconds_lost,
        started=record.training_started,
    )
    yield _of_kind(
        "evaluation",
        measured=dumped(artifacts.evaluation),
        verdict=present(**{name: facts.gate.get(name) for name in ("outcome", "message")}),
    )
    verification = facts.verification
    if verification.get("build") == facts.target.build:
        ledger = Ledger({facts.target.revision: record})
        served = ledger.serving(facts.target.build)
        # The model that was compared, which may be another than the published one.
        mode = facts.target.resolved.spec.serving.mode
        compared = publications.content(ledger, facts.target, mode)
        measured = ("outcome", "distance", "tolerance", "smallestFault")
        yield _of_kind(
            "verification",
            build=facts.target.build,
            base=served and served.base,
            image=served and served.image_id,
            subject=present(sha256=compared),
            **{name: verification.get(name) for name in measured},
        )


def _of_kind(kind: str, **values: object) -> Values:
    return present(name=kind, uri=f"{BUILD_TYPE}#{kind}", annotations=present(**values))
