"""Which names an endpoint must serve, and the signed list of them. Pure.

A name belongs to the job that had it first, and a place for an adapter to the job that got it
first. So a job never takes a name or a place from another one, and the order in which jobs are
read does not matter. No job gets a name that ends in ``-base``: under such names, the gate answers
with the base. A job that has had one since an earlier version keeps it.

The number of a list never decreases: a gate rejects every earlier list, which is signed, too. It
grows only with a change of the names. It is at least the time in seconds, so that it is higher than
every earlier one even if the status was restored from a backup.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from finetune_api.contracts.endpoint import PAYLOAD_TYPE, EndpointStatus, WantedName, WantedSet
from finetune_api.contracts.provenance import attestation
from finetune_api.v1alpha1.endpoints.names import BASE_SUFFIX
from finetune_api.v1alpha1.endpoints.status import (
    EndpointModelStatus,
    FineTuneEndpointStatus,
    WantedNames,
)
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.objects.digest import sha256
from finetune_operator.revisions.sharing.endpoints import REFUSED, reserved_message
from finetune_operator.revisions.sharing.models import Attached
from finetune_operator.revisions.sharing.settings import TargetEndpoint
from finetune_operator.signing import SigningKey

UNPUBLISHED = "The job has not published its adapter to the present volume of the endpoint yet."

Place = tuple[str, str | None, str | None]
"""What the gate loads once, however many names it has: adapter, reference and template."""


@dataclass(frozen=True, kw_only=True)
class Names:
    """The names to serve, and the others of the jobs."""

    wanted: tuple[WantedName, ...]
    unlisted: tuple[EndpointModelStatus, ...]
    """Names that are refused, or whose adapter the claim does not have yet."""
    free: int
    """Further adapters that can be served."""


def names(
    target: TargetEndpoint, attached: Iterable[Attached], previous: FineTuneEndpointStatus
) -> Names:
    """Return the names of an endpoint. attached: the oldest job first."""
    jobs = tuple(attached)
    held = {model.name: model.job for model in previous.models if model.state not in REFUSED}
    owners = _owners(jobs, held)
    most = target.spec.lora.max_adapters
    holders = set(held.values())
    places: set[Place] = set()
    full: set[str] = set()
    for job in sorted(jobs, key=lambda job: job.job not in holders):
        if not any(owners.get(name) == job.job for name in job.model.names):
            continue
        if len(places | {_place(job)}) > most:
            full.add(job.job)
        else:
            places.add(_place(job))
    wanted, unlisted = [], []
    for job in jobs:
        for name in job.model.names:
            if name not in owners:
                message = reserved_message(name, job.job, job.model.endpoint)
                unlisted.append(_unlisted(job, name, Reason.NAME_CONFLICT, message))
            elif owners[name] != job.job:
                unlisted.append(_conflict(job, name, owners[name]))
            elif job.job in full:
                unlisted.append(_full(job, name, most))
            elif not job.is_present:
                unlisted.append(_unlisted(job, name, "Waiting", UNPUBLISHED))
            else:
                wanted.append(_wanted(job, name, target))
    return Names(
        wanted=tuple(sorted(wanted, key=lambda wanted_name: wanted_name.name)),
        unlisted=tuple(unlisted),
        free=most - len(places),
    )


def numbered(
    names: Names,
    previous: WantedNames | None,
    gate: EndpointStatus | None,
    now: datetime,
) -> WantedNames:
    """Return number and digest of the list of names.

    gate: its report. If it uses a list with a higher number, the status is older than the gate, and
    the list gets another number.
    """
    digest = digest_of(names.wanted)
    if previous is None:
        return WantedNames(sequence=int(now.timestamp()), digest=digest)
    reported = 0 if gate is None else gate.sequence or 0
    behind = previous.sequence < reported <= now.timestamp()
    if digest == previous.digest and not behind:
        return previous
    sequence = max(previous.sequence + 1, int(now.timestamp()))
    return WantedNames(sequence=sequence, digest=digest)


def digest_of(wanted: Iterable[WantedName]) -> str:
    """Return the digest of a list of names."""
    return sha256([name.model_dump(mode="json") for name in wanted])


def signed(uid: str, names: Names, number: WantedNames, key: SigningKey) -> str:
    """Return the signed list, the same text for the same arguments. uid: of the endpoint."""
    payload = WantedSet(endpoint=uid, sequence=number.sequence, names=names.wanted).payload()
    signature = key.sign(attestation.signed_bytes(payload, kind=PAYLOAD_TYPE))
    document = attestation.envelope(payload, signature, kind=PAYLOAD_TYPE)
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def _owners(jobs: Iterable[Attached], held: dict[str, str]) -> dict[str, str]:
    """Return the job that each name belongs to. jobs: the oldest first.

    No job owns a reserved name that it has not had before.
    """
    owners: dict[str, str] = {}
    for job in jobs:
        for name in job.model.names:
            if name.endswith(BASE_SUFFIX) and held.get(name) != job.job:
                continue
            if name not in owners or held.get(name) == job.job:
                owners[name] = job.job
    return owners


def _place(job: Attached) -> Place:
    return job.model.adapter, job.model.reference, job.model.template


def _wanted(job: Attached, name: str, target: TargetEndpoint) -> WantedName:
    return WantedName(
        name=name,
        job=job.job,
        revision=job.model.revision,
        adapter=job.model.adapter,
        reference=job.model.reference,
        path=job.model.path,
        template=job.model.template,
        allow_inconclusive=target.spec.allow_inconclusive,
        attempt=job.model.attempt,
    )


def _conflict(job: Attached, name: str, owner: str) -> EndpointModelStatus:
    return _unlisted(
        job,
        name,
        Reason.NAME_CONFLICT,
        f"FineTuneJob {owner} had the model name {name} first. Set serving.servedModelNames of "
        f"FineTuneJob {job.job} to another name.",
    )


def _full(job: Attached, name: str, most: int) -> EndpointModelStatus:
    return _unlisted(
        job,
        name,
        Reason.ENDPOINT_FULL,
        f"The endpoint has {most} places for adapters, and {most} other adapters have them. Raise "
        "spec.lora.maxAdapters of the FineTuneEndpoint, or delete a job that is not needed.",
    )


def _unlisted(job: Attached, name: str, state: str, message: str) -> EndpointModelStatus:
    return EndpointModelStatus(
        name=name,
        job=job.job,
        revision=job.model.revision,
        adapter=job.model.adapter,
        attempt=job.model.attempt,
        state=str(state),
        message=message,
    )
