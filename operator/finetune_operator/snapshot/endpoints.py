"""The FineTuneEndpoints: that of a job, the jobs of each one, and the snapshot of one itself."""

import asyncio
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from finetune_operator.config import Settings
from finetune_operator.kube.errors import Transient
from finetune_operator.kube.kinds import FINETUNEENDPOINT, FINETUNEJOB
from finetune_operator.objects import deployments, endpoints, naming, stages
from finetune_operator.objects.jobs import is_over, pod_has_ended
from finetune_operator.snapshot.budgets.budgets import Budgets
from finetune_operator.snapshot.live import LiveReader
from finetune_operator.snapshot.scraping.gates import Gate, Gates
from finetune_operator.snapshot.store import ObjectStore, version_of
from finetune_operator.snapshot.watches import MANAGED
from finetune_operator.types import LISTS, NO_JOBS, EndpointSnapshot, Key, Object, Plan


@dataclass(kw_only=True)
class AttachedJobs:
    """The parts of the jobs in a store that refer to endpoints, kept up to date with it."""

    jobs: ObjectStore
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when an endpoint has other jobs, or other models of its jobs."""
    _uids: dict[Key, str] = field(default_factory=dict)
    """Of all jobs in the store."""
    _references: dict[Key, Object] = field(default_factory=dict)
    _of: dict[Key, set[Key]] = field(default_factory=dict)
    """Keys of jobs by the key of their endpoint."""
    _changed: set[Key] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Follow the store, like others that do."""
        before = self.jobs.on_own_change

        def take(key: Key, job: Object | None) -> None:
            before(key, job)
            self._take(key, job)

        for key in self.jobs.own_keys():
            self._take(key, self.jobs.owner(key))
        self.jobs.on_own_change = take

    def of(self, endpoint: Key) -> tuple[Object, ...]:
        """Return the parts of the jobs that refer to an endpoint."""
        return tuple(self._references[key] for key in sorted(self._of.get(endpoint, ())))

    def keys(self, endpoint: Key) -> frozenset[Key]:
        """Return the keys of these jobs."""
        return frozenset(self._of.get(endpoint, ()))

    def uid(self, job: Key) -> str | None:
        """Return the UID of a job in the store, None if there is none of this name."""
        return self._uids.get(job)

    def take_changed(self) -> frozenset[Key]:
        """Return the endpoints whose jobs have changed since the last call."""
        changed, self._changed = frozenset(self._changed), set()
        self.changed.clear()
        return changed

    def _take(self, key: Key, job: Object | None) -> None:
        reference = None if job is None else endpoints.reference(job)
        self._uids.pop(key, None)
        if job is not None:
            self._uids[key] = job["metadata"]["uid"]
        before = self._references.pop(key, None)
        if reference is not None:
            self._references[key] = reference
        if reference == before:
            return
        old = frozenset() if before is None else endpoints.referred(before)
        new = frozenset() if reference is None else endpoints.referred(reference)
        for name in old - new:
            jobs = self._of[key[0], name]
            jobs.discard(key)
            if not jobs:
                del self._of[key[0], name]
        for name in new:
            self._of.setdefault((key[0], name), set()).add(key)
        self._changed |= {(key[0], name) for name in old | new}
        self.changed.set()


@dataclass(frozen=True, kw_only=True)
class Endpoints:
    """The endpoints that jobs refer to. Raises OperatorError."""

    live: LiveReader

    async def of(self, namespace: str, name: str) -> Object | None:
        """Return an endpoint, None if it does not exist."""
        return await self.live.owner((namespace, name))


@dataclass(frozen=True, kw_only=True)
class EndpointReader:
    """Takes the snapshot of an endpoint from the store."""

    live: LiveReader
    jobs: AttachedJobs
    gates: Gates
    settings: Settings
    budgets: Budgets | None = None
    _complete: set[str] = field(default_factory=set)
    """Namespaces of which all jobs have been read."""

    async def read(
        self,
        key: Key,
        *,
        live: Set[str] = frozenset(),
        names: Iterable[tuple[str, str]] = (),
        created: Mapping[str, bool] = NO_JOBS,
    ) -> EndpointSnapshot | None:
        """Return the snapshot of an endpoint, None if it does not exist. Raises OperatorError.

        Before the first snapshot in a namespace, every job there must have been read: a plan
        without one would remove its names, which another job could then get.
        """
        if FINETUNEJOB in live or key[0] not in self._complete:
            await self._require_jobs(key)
        await self.live.refresh(key, live)
        for kind, name in names:
            if kind not in live:
                await self.live.get(kind, (key[0], name))
        accounts = None if self.budgets is None else await self.budgets.of_endpoint(key)
        endpoint = self.live.store.owner(key)
        if endpoint is None:
            return None
        children: dict[str, Any] = self.live.store.children(key)
        children[LISTS[naming.VOLUME]] += await self._hidden_claim(endpoint, children)
        if FINETUNEJOB in live and self._deleted_jobs(endpoint):
            await self._read_publishing(key[0])
        gate = serving_gate(endpoint, children["deployments"], children["pods"])
        return EndpointSnapshot(
            endpoint=endpoint,
            settings=self.settings,
            finetunejobs=self.jobs.of(key),
            deleted_jobs=self._deleted_jobs(endpoint),
            gate=self.gates.latest(key, gate),
            awaits_report=self.gates.awaits(key),
            accounts=accounts,
            **children,
        )

    async def complete(self, key: Key, plan: Plan) -> bool:
        """Grant the GPUs that a plan needs; return whether that is news."""
        wanted = plan.serving_gpus
        if wanted is None or self.budgets is None:
            return False
        return self.budgets.grant(key, wanted, FINETUNEENDPOINT)

    def wait(self, key: Key, snapshot: EndpointSnapshot, plan: Plan) -> float:
        """Return 0: no plan waits for information."""
        return 0.0

    def forget(self, key: Key) -> None:
        """Forget an endpoint that was deleted, or that another replica reconciles."""
        self.gates.forget(key)
        self._complete.discard(key[0])

    async def _hidden_claim(self, endpoint: Object, children: dict[str, Any]) -> tuple[Object, ...]:
        """Return the claim with the base, if the store lacks it though it exists."""
        uid = (endpoint.get("status") or {}).get("volume")
        name = endpoints.object_name(endpoint["metadata"]["name"])
        present = children[LISTS[naming.VOLUME]]
        if uid is None or any(claim["metadata"]["name"] == name for claim in present):
            return ()
        claim = await self.live.get(naming.VOLUME, (endpoint["metadata"]["namespace"], name))
        return () if claim is None or claim["metadata"]["uid"] != uid else (claim,)

    def _deleted_jobs(self, endpoint: Object) -> frozenset[str]:
        """Return the UIDs in ``status.folders`` of jobs that do not exist, and do not publish."""
        namespace = endpoint["metadata"]["namespace"]
        folders = (endpoint.get("status") or {}).get("folders") or ()
        return frozenset(
            folder["uid"]
            for folder in folders
            if self.jobs.uid((namespace, folder["job"])) != folder["uid"]
            and not self._publishes((namespace, folder["job"]))
        )

    def _publishes(self, job: Key) -> bool:
        """Report whether a pod may still write for a job of this name, which may be deleted."""
        children = self.jobs.jobs.children(job)
        unfinished = (
            *(child for child in children[LISTS["Job"]] if not is_over(child)),
            *(child for child in children[LISTS["Pod"]] if not pod_has_ended(child)),
        )
        return any(stages.publishes(naming.label(child, naming.STAGE)) for child in unfinished)

    async def _read_publishing(self, namespace: str) -> None:
        """Read the publish Jobs of a namespace and their pods into the store of the jobs.

        The Jobs come first: without its Job, no further pod is created.
        """
        names = ",".join(stage.name for stage in stages.BESIDE)
        labels = f"{MANAGED},{naming.STAGE} in ({names})"
        for kind in ("Job", "Pod"):
            for child in await self.live.kube.list(kind, namespace, labels=labels):
                self.jobs.jobs.put(child)

    async def _require_jobs(self, key: Key) -> None:
        """Compare the jobs in the store with those that exist. Raises Transient if one is missing.

        One that the endpoint serves, but that is stored without its model, must be stored in the
        version that exists. None may be taken for an earlier job of its name: the status of the
        endpoint, which another leader may have written, can list its folder before the next read.
        """
        namespace, endpoint = key[0], await self.live.owner(key)
        status = {} if endpoint is None else endpoint.get("status") or {}
        served = {model["job"] for model in status.get("models") or ()} - {
            job["metadata"]["name"] for job in self.jobs.of(key) if job["status"]
        }
        listed = await self.live.kube.list(FINETUNEJOB, namespace, metadata_only=True)
        for job in listed:
            name = job["metadata"]["name"]
            needed = version_of(job) if name in served else 1
            is_other = self.jobs.uid((namespace, name)) != job["metadata"]["uid"]
            if is_other or self.jobs.jobs.version(FINETUNEJOB, (namespace, name)) < needed:
                raise Transient(
                    f"FineTuneJob {name} has not been read yet, so the names of the endpoint are "
                    "unknown"
                )
        self._complete.add(namespace)


def serving_gate(
    endpoint: Object, existing: Iterable[Object], pods: Iterable[Object]
) -> Gate | None:
    """Return the newest running pod of the endpoint's own Deployment, None if there is none.

    Anybody who may create pods can label one like that of an endpoint.
    """
    own = [deployment for deployment in existing if naming.owned_by(endpoint, deployment)]
    running = [
        pod
        for pod in pods
        if any(deployments.controls(deployment, pod) for deployment in own)
        and pod.get("status", {}).get("podIP")
        and pod["status"].get("phase") == "Running"
        and "deletionTimestamp" not in pod["metadata"]
        and not pod_has_ended(pod)
    ]
    if not running:
        return None
    newest = max(running, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    return Gate(
        endpoint=endpoint["metadata"]["uid"],
        pod=newest["metadata"]["uid"],
        address=str(newest["status"]["podIP"]),
    )
