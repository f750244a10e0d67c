"""What a publish Job sends to a tracking server, besides the results on the volume."""

from datetime import datetime
from typing import Any

from finetune_api.contracts.publish_targets import MLflowTarget
from finetune_api.v1alpha1.publishing.targets import PublishTarget
from finetune_api.v1alpha1.publishing.tracking import TrackingServer
from finetune_api.v1alpha1.status.ledger import Revision
from finetune_operator.objects import naming
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.publishing import publications
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object

SCHEME = "oci://"
"""Begins the URI of an image: its reference has none."""


def of_target(
    job: Object,
    target: TargetRevision,
    record: Revision,
    publish_target: PublishTarget,
    ca: str | None,
) -> dict[str, Any]:
    """Return the fields of the request about a tracking server; none for another target.

    ca: path of its certificates.
    """
    if not isinstance(publish_target, TrackingServer):
        return {}
    metadata, server = job["metadata"], publish_target.mlflow
    full_name = f"{metadata['namespace']}/{metadata['name']}"
    links = publications.links(Ledger({target.revision: record}), target)
    tags = {
        f"{naming.PREFIX}/job": full_name,
        f"{naming.PREFIX}/revision": target.frozen.digest,
        **{f"{naming.PREFIX}/published.{name}": link for name, link in links.items()},
    }
    return {
        "mlflow": MLflowTarget(
            uri=server.uri,
            experiment=server.experiment or full_name,
            run=f"{metadata.get('uid')}/{target.revision}",
            started=_milliseconds(record.training_started),
            registered_model=server.registered_model,
            source=_source(target, links) if server.registered_model else None,
            tags=tags,
            ca=ca,
        )
    }


def _source(target: TargetRevision, links: dict[str, str]) -> str | None:
    """Return the URI of the model of which a version is registered."""
    entries = [entry for entry in target.resolved.spec.publish or () if entry.name in links]
    entries.sort(key=lambda entry: entry.what != "merged")
    if not entries:
        return None
    link = links[entries[0].name]
    return f"{SCHEME}{link}" if entries[0].oci is not None else link


def _milliseconds(time: str | None) -> int:
    return 0 if time is None else int(datetime.fromisoformat(time).timestamp() * 1000)
