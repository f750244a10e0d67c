"""Access of the publish pod to its targets: certificates, credentials, identity, and a place.

Secrets are environment variables that the kubelet resolves, with a prefix for each target.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from finetune_api.contracts.publish_targets import (
    HuggingFaceTarget,
    OCITarget,
    PublishTargetRequest,
    S3Target,
)
from finetune_api.safety import credentials
from finetune_api.v1alpha1.publishing.shared_endpoint import SharedEndpointTarget
from finetune_api.v1alpha1.publishing.targets import PublishTarget
from finetune_api.v1alpha1.publishing.tracking import TrackingServer
from finetune_api.v1alpha1.references import SecretKeyRef
from finetune_api.v1alpha1.status.ledger import Attempt, Revision
from finetune_operator.config import Settings
from finetune_operator.connections import Hub
from finetune_operator.manifests import egress, serving, sources
from finetune_operator.manifests.publishing import attestations, shared_endpoint, tracking
from finetune_operator.objects import naming
from finetune_operator.objects.stages import JobStage, publishes
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.publishing import publications
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object

AMAZON_S3 = "https://s3.amazonaws.com"
MOST_OWN = 10
"""Digests in the request of a target that also has a statement: all requests are one argument,
whose length is limited."""


def attempt_of(target: TargetRevision, record: Revision) -> Attempt | None:
    """Return the latest attempt at publishing the build of a target, or None."""
    return next(
        (
            attempt
            for attempt in record.stages
            if publishes(attempt.stage) and attempt.build == target.build
        ),
        None,
    )


def targets_of(
    target: TargetRevision, stage: JobStage, record: Revision
) -> tuple[PublishTarget, ...]:
    """Return the targets of the latest attempt at a stage; none if the stage does not publish."""
    return targets(target, record) if stage.publishes else ()


def targets(target: TargetRevision, record: Revision) -> tuple[PublishTarget, ...]:
    """Return the targets of the latest attempt, in the order of the spec."""
    attempt = attempt_of(target, record)
    names = (attempt.targets if attempt is not None else None) or ()
    return tuple(
        publish_target
        for publish_target in publications.targets(target)
        if publish_target.name in names
    )


def requests(
    job: Object, target: TargetRevision, record: Revision, published: Mapping[str, str], config: str
) -> tuple[PublishTargetRequest, ...]:
    """Return the request for each target. config: folder of the certificates."""
    name, ledger = job["metadata"]["name"], Ledger({target.revision: record})
    return tuple(
        PublishTargetRequest(
            name=publish_target.name,
            what=publish_target.what,
            content=publications.content(ledger, target, publish_target.what),
            version=naming.published_name(name, target.revision, target.build, publish_target.what),
            tags=tuple(publish_target.tags or ()),
            overwrite=publish_target.overwrite,
            own=_own(target, publish_target, published, attests="attestation" in statement),
            annotations=_annotations(job, target, publish_target.what),
            **statement,
            **_place(publish_target, target.hub, config),
            **tracking.of_target(job, target, record, publish_target, _ca(publish_target, config)),
            **shared_endpoint.of_target(job, target, record, publish_target),
        )
        for publish_target in targets(target, record)
        for statement in [attestations.of_target(job, target, record, publish_target)]
    )


def _own(
    target: TargetRevision,
    publish_target: PublishTarget,
    published: Mapping[str, str],
    *,
    attests: bool,
) -> tuple[str, ...]:
    """Return the digests from which the tags or the branch of a target may move.

    published: by the job, the latest last, with their places. attests: whether the request has a
    statement, with which only a hub still gets the model.
    """
    if publish_target.hugging_face is not None:
        commits = [digest for digest in published if digest.startswith("sha1:")]
        if not attests:
            return tuple(commits)
        # Those of other repositories are left out first, then those whose place is forgotten.
        ranks = {publications.place(target, publish_target): 2, "": 1}
        commits.sort(key=lambda commit: ranks.get(published[commit], 0))
        return tuple(commits[-MOST_OWN:])
    return tuple(published) if publish_target.tags and not attests else ()


def files(each_of: Iterable[PublishTarget]) -> list[dict[str, Any]]:
    """Return sources for the config volume: the certificates of each target."""
    return [
        sources.file(
            publish_target.certificates.name,
            publish_target.certificates.key,
            _certificates(publish_target),
        )
        for publish_target in each_of
        if publish_target.certificates is not None
    ]


def environment(each_of: Iterable[PublishTarget]) -> list[dict[str, Any]]:
    """Return the variables with the credentials of each target."""
    variables: list[dict[str, Any]] = []
    for publish_target in each_of:
        prefix = credentials.of_target(publish_target.name)
        if publish_target.secret is None:
            continue
        if isinstance(publish_target, TrackingServer):
            variables += [
                sources.secret(prefix + key, publish_target.secret.name, key, optional=True)
                for key in credentials.MLFLOW_KEYS
            ]
            continue
        if isinstance(publish_target.secret, SecretKeyRef):
            variable = prefix + credentials.HUB_TOKEN
            variables.append(
                sources.secret(variable, publish_target.secret.name, publish_target.secret.key)
            )
            continue
        if publish_target.oci is not None:
            variable = prefix + credentials.DOCKER_CONFIG
            variables.append(
                sources.secret(variable, publish_target.secret.name, sources.DOCKER_CONFIG_KEY)
            )
            continue
        variables += [
            sources.secret(prefix + key, publish_target.secret.name, key, optional=optional)
            for key, optional in credentials.S3_KEYS.items()
        ]
    return variables


def uses_identity(each_of: Iterable[PublishTarget]) -> bool:
    """Report whether a target is written with the cloud identity of the pod."""
    return any(
        publish_target.s3 is not None and publish_target.secret is None
        for publish_target in each_of
    )


def uses_hub(each_of: Iterable[PublishTarget]) -> bool:
    """Report whether a target is on the hub."""
    return any(publish_target.hugging_face is not None for publish_target in each_of)


def beside_serving_pods(job: Object, target: TargetRevision) -> dict[str, Any]:
    """Return the affinity to the node whose serving pods hold the volume of the revision.

    If a FineTuneEndpoint serves it, its pod holds the claim that gets the adapter. Other pods of
    the job may still serve another build, so they attract more: the volume of the job comes first.

    It is a preference: a job that serves nothing has no such pods. A volume that only one node can
    mount keeps a pod on another node waiting until the serving pods are gone.
    """
    labels = serving.selector(job, target.build)
    preferred = [_beside(labels, 100)]
    if target.endpoint_name is not None:
        own = {key: value for key, value in labels.items() if key != naming.BUILD}
        endpoint = serving.endpoint_selector(target.endpoint_name)
        shared = target.resolved.spec.storage.access_mode == "ReadWriteMany"
        preferred = [*([] if shared else [_beside(own, 100)]), _beside(endpoint, 50)]
    return {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}


def _beside(labels: dict[str, str], weight: int) -> dict[str, Any]:
    term = {
        "labelSelector": {"matchLabels": labels},
        "topologyKey": "kubernetes.io/hostname",
    }
    return {"weight": weight, "podAffinityTerm": term}


def connections(target: TargetRevision, config: Settings) -> tuple[bool, Settings]:
    """Return whether the publish pod needs a cloud identity, and the settings of its egress.

    The targets are those of the spec: the NetworkPolicy does not change with each attempt.
    """
    publish_targets = publications.targets(target)
    identity = uses_identity(publish_targets) and sources.has_identity(target.resolved.spec)
    outside = (
        publish_target
        for publish_target in publish_targets
        if not isinstance(publish_target, SharedEndpointTarget)
    )
    urls = tuple(_url(publish_target, target.hub) for publish_target in outside)
    hub = target.hub if uses_hub(publish_targets) else None
    return identity, egress.for_targets(config, urls, hub=hub)


def _url(publish_target: PublishTarget, hub: Hub) -> str:
    """Return the URL of the server of a target; that of Amazon S3 depends on the region."""
    if publish_target.oci is not None:
        return f"https://{publish_target.oci.repository}"
    if isinstance(publish_target, TrackingServer):
        return publish_target.mlflow.uri
    if publish_target.hugging_face is not None:
        return hub.url
    assert publish_target.s3 is not None
    return publish_target.s3.endpoint or AMAZON_S3


def _place(
    publish_target: PublishTarget, hub: Hub, config: str
) -> dict[str, OCITarget | S3Target | HuggingFaceTarget]:
    ca = _ca(publish_target, config)
    if isinstance(publish_target, TrackingServer | SharedEndpointTarget):
        return {}
    if publish_target.oci is not None:
        return {"oci": OCITarget(repository=publish_target.oci.repository, ca=ca)}
    if publish_target.hugging_face is not None:
        repository = publish_target.hugging_face
        place = HuggingFaceTarget(
            repo=repository.repo,
            branch=repository.branch,
            private=repository.private,
            endpoint=hub.endpoint or None,
            ca=ca,
        )
        return {"hugging_face": place}
    assert publish_target.s3 is not None
    s3 = publish_target.s3
    return {"s3": S3Target(uri=s3.uri, endpoint=s3.endpoint, region=s3.region, ca=ca)}


def _ca(publish_target: PublishTarget, config: str) -> str | None:
    """Return the path of the certificates of a target. config: their folder."""
    return (
        None if publish_target.certificates is None else f"{config}/{_certificates(publish_target)}"
    )


def _certificates(publish_target: PublishTarget) -> str:
    return f"ca/publish-{publish_target.name}.crt"


def _annotations(job: Object, target: TargetRevision, what: str) -> dict[str, str]:
    """Return what an image says about its origin. The adapter is the same in each build."""
    build = {f"{naming.PREFIX}/build": target.resolved.build_digest}
    return {
        f"{naming.PREFIX}/job": f"{job['metadata']['namespace']}/{job['metadata']['name']}",
        f"{naming.PREFIX}/revision": target.frozen.digest,
        **({} if what == "adapter" else build),
    }
