"""A cluster in memory: an API server, and an operator that reconciles and writes.

The API server assigns uids, resourceVersions and generations, and rejects the same writes as a real
one: a second object with the same name, a write to another version, a patch of an immutable field,
and a status field that the CRD does not have. ``controllers`` contains the Job and Deployment
controllers and the kubelet. Nothing waits; the tests advance the time.
"""

import functools
import marshal
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_api.crd.openapi import schema_of
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status.job import FineTuneJobStatus
from finetune_operator.actions import Action, Apply, Create, Delete, Patch, Scale
from finetune_operator.config import Settings
from finetune_operator.objects import naming, status_view
from finetune_operator.objects.compact.trimming import trimmed
from finetune_operator.objects.contents import same_content
from finetune_operator.objects.pods import scheduled_since
from finetune_operator.queues.values import Queues
from finetune_operator.reconcile.plan import plan
from finetune_operator.types import (
    LISTS,
    Event,
    Plan,
    PodProgress,
    Requests,
    Snapshot,
    Verification,
)
from finetune_operator.usage.values import NamespaceUsage, Reservation, ReservationRequest

Thing = dict[str, Any]

SPEC: Thing = {
    "model": {"source": "hf://demo/llama"},
    "dataset": {"source": "hf://demo/rows", "format": "alpaca"},
}
CONFIG = Settings.model_validate(
    {
        "images": {
            "trainer": "registry/trainer:1",
            "serving": "registry/vllm:1",
            "operator": "registry/operator:1",
        }
    }
)
STATUS_SCHEMA = schema_of(FineTuneJobStatus)
START = datetime(2030, 1, 1, tzinfo=UTC)
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class Crash(Exception):
    """The operator crashed between two writes."""


class Refused(Exception):
    """The API server rejected a write; earlier writes stay."""


class OtherContent(Refused):
    """An object to be created exists with another content."""

    def __init__(self, existing: Thing) -> None:
        super().__init__(f"{existing['kind']} {existing['metadata']['name']} has other content")
        self.existing = existing


IMAGE_IDS = {
    image: image.replace(":1", f"@sha256:{digit * 64}")
    for digit, image in zip("12", (CONFIG.images.trainer, CONFIG.images.serving), strict=True)
}


@dataclass(kw_only=True)
class Cluster:
    """One namespace with one FineTuneJob, and its operator."""

    spec: Thing = field(default_factory=lambda: copied(SPEC))
    name: str = "demo"
    config: Settings = CONFIG
    profiles: dict[str, Thing] = field(default_factory=dict)
    """FineTuneProfiles by name."""

    others: dict[str, Thing] = field(default_factory=dict)
    """The other FineTuneJobs of the namespace, by name."""

    endpoints: dict[str, Thing] = field(default_factory=dict)
    """The FineTuneEndpoints of the namespace, by name."""

    usage: NamespaceUsage | None = None
    """Of the namespace; None if the operator does not record it."""

    queues: Queues | None = None
    """Of Kueue; None if the operator does not read them."""

    now: datetime = START
    progress: PodProgress | None = None
    loaded: float | None = None
    outcome: str | None = None
    """Outcome of the verification that serving pods report."""
    last_request: datetime | None = None
    """Time at which a client last sent a request."""
    counts_requests: bool = True
    """Whether the verifiers of serving pods count requests."""
    events: list[Thing] = field(default_factory=list)
    objects: dict[tuple[str, str], Thing] = field(default_factory=dict)
    job: Thing | None = None
    version: int = 0
    identities: int = 0
    revisions: list[str] = field(default_factory=list)
    builds: list[str] = field(default_factory=list)
    """All revisions and builds that a status contained, in the order of their appearance."""
    recorded: list[Event] = field(default_factory=list)
    """The events of all executed plans."""

    created: dict[str, bool] = field(default_factory=dict)
    """Uids of the Jobs that the operator created or found since its last crash, and whether they
    have the content that it would create."""

    confirmed: set[str] = field(default_factory=set)
    """Uids of the Jobs that a create request ever returned, or found with equal content."""

    image_ids: dict[str, str] = field(default_factory=lambda: dict(IMAGE_IDS))
    """How the container runtime resolves images; one without an entry is not reported."""

    foreign: set[str] = field(default_factory=set)
    """Uids of the objects that a tenant created under names of the operator's objects."""

    def __post_init__(self) -> None:
        self.submit()

    # The user.

    def submit(self) -> None:
        """Create the FineTuneJob, or re-create it after a deletion."""
        self.job = {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": self.name, "generation": 1, **self.identity()},
            "spec": copied(self.spec),
            "status": {"observedGeneration": -1},
        }

    def edit(self, **changes: Any) -> None:
        """Apply a merge patch to the spec; null removes a field."""
        job = self.present_job()
        spec = copied(job["spec"])
        merge(spec, changes, nulls_remove=True)
        if spec != job["spec"]:
            job["spec"] = spec
            job["metadata"]["generation"] += 1
            self.touch(job)

    def annotate(self, **annotations: str) -> None:
        """Set annotations of the FineTuneJob with our prefix, such as ``wake``."""
        job = self.present_job()
        own = job["metadata"].setdefault("annotations", {})
        own.update({f"{naming.PREFIX}/{name}": value for name, value in annotations.items()})
        self.touch(job)

    def delete_job(self) -> None:
        """Delete the FineTuneJob in the foreground; it exists until its children are deleted."""
        job = self.present_job()
        job["metadata"]["deletionTimestamp"] = self.stamp()
        self.touch(job)

    # The operator.

    def observe(self, between: Callable[[], None] = lambda: None) -> Snapshot:
        """Read a snapshot. ``between`` is called before the last list, that of the pods."""
        job = copied(self.present_job())
        lists: dict[str, Any] = {kind: self._trimmed(kind) for kind in LISTS if kind != "Pod"}
        between()
        lists["Pod"] = self._trimmed("Pod")
        return Snapshot(
            settings=self.config,
            job=job,
            events=tuple(copied(self.events)),
            progress=self.running_progress(),
            loaded=self.loaded,
            verification=self.verification(),
            requests=self.requests(),
            created=dict(self.created),
            profiles=self.profiles_of(job),
            parent=copied(self.others.get(naming.parent_of(job) or "")),
            endpoints=tuple(
                self._listing(copied(self.endpoints[name]))
                for name in status_view.endpoint_names(job)
                if name in self.endpoints
            ),
            usage=self.usage,
            queues=self.queues,
            **{LISTS[kind]: each for kind, each in lists.items()},
        )

    def _listing(self, endpoint: Thing) -> Thing:
        """Return an endpoint that lists the folder of the job, unless it has a list of its own."""
        folder = {"job": self.name, "uid": self.present_job()["metadata"]["uid"]}
        return {**endpoint, "status": {"folders": [folder], **(endpoint.get("status") or {})}}

    def profiles_of(self, job: Mapping[str, Any]) -> tuple[Thing, ...]:
        """Return the profile that the job names, or the default ones, as the reader does."""
        name = job["spec"].get("profile")
        return tuple(
            copied(each)
            for each in self.profiles.values()
            if (
                naming.is_default_profile(each)
                if name is None
                else each["metadata"]["name"] == name
            )
        )

    def plan(self) -> Plan:
        """Return a plan without executing it."""
        return self.plan_of(self.observe())

    def plan_of(self, snapshot: Snapshot) -> Plan:
        """Return the plan for a snapshot at the current time."""
        return plan(snapshot, now=self.now)

    def reconcile(self, *, die_before: int | None = None) -> Plan:
        """Plan and execute. ``die_before``: index of the write that the operator does not reach."""
        snapshot = self.observe()
        intended = plan(snapshot, now=self.now)
        if (request := intended.reservation) is not None and self.reserve(request):
            snapshot = self.observe()
            intended = plan(snapshot, now=self.now)
        try:
            self.carry_out(snapshot, intended, die_before=die_before)
        except OtherContent as error:
            uid = error.existing["metadata"]["uid"]
            if error.existing["kind"] != "Job" or uid in self.created:
                raise
            # The operator reconciles once more, and knows it.
            self.created[uid] = False
            self.version += 1
        return intended

    def reserve(self, request: ReservationRequest) -> bool:
        """Record a reservation as the recorder of usage does; tests replace this to refuse it."""
        assert self.usage is not None
        made = Reservation(**vars(request), used=self.usage.trained.get(request.key, 0))
        self.usage = replace(
            self.usage, reservations={**self.usage.reservations, request.key: made}
        )
        return True

    def settle(self, limit: int = 8) -> Plan:
        """Reconcile until nothing changes; fail after more than ``limit`` reconciles."""
        for _ in range(limit):
            before = self.version
            settled = self.reconcile()
            if self.version == before:
                return settled
        raise AssertionError(f"still writing after {limit} reconciles: {settled.actions}")

    def carry_out(
        self,
        snapshot: Snapshot,
        intended: Plan,
        *,
        die_before: int | None = None,
        only: int | None = None,
        on_write: Callable[[Mapping[str, Any]], None] = lambda written: None,
    ) -> None:
        """Write the status, then execute the actions in order, each with its own preconditions.

        die_before: index of the write before which the operator crashes; only: index of the only
        write that is executed; on_write: is called with the target of each executed write. If
        ``die_before`` is odd, the writes of a batch arrive in reverse.
        """
        writes: list[Callable[[], None]] = []
        if stored(intended.status) != stored(snapshot.job["status"]):
            writes.append(lambda: self._write_status(snapshot.job, intended.status))
        targets: list[Mapping[str, Any]] = [snapshot.job] * len(writes)
        backwards = (die_before or 0) % 2 == 1
        for batch in intended.batches():
            for action in reversed(batch) if backwards else batch:
                writes.append(lambda action=action: self._act(snapshot, action))  # type: ignore[misc]
                targets.append(action.object)
        for number, (target, write) in enumerate(zip(targets, writes, strict=True)):
            if number == die_before:
                self.created.clear()
                raise Crash
            if only in (None, number):
                write()
                on_write(target)
        self.recorded += intended.events

    # The API server.

    def list(self, kind: str) -> list[Thing]:
        """Return copies of the objects of a kind that have the label of the job."""
        return [copied(found) for found in self._labeled(kind)]

    def each(self, kind: str) -> Iterator[Thing]:
        """Yield the stored objects of a kind, not copies."""
        for (own, _), found in list(self.objects.items()):
            if own == kind:
                yield found

    def get(self, kind: str, name: str) -> Thing | None:
        """Return a stored object, not a copy."""
        return self.objects.get((kind, name))

    def add(self, thing: Mapping[str, Any]) -> Thing:
        """Store a new object. Raises Refused if an object with the same name exists."""
        kind, name = thing["kind"], thing["metadata"]["name"]
        assert NAME.fullmatch(name), name
        if (kind, name) in self.objects:
            raise Refused(f"{kind} {name} exists")
        new: Thing = copied(thing)
        new["metadata"] |= {"generation": 1, **self.identity()}
        new.setdefault("status", {"phase": "Pending"} if kind == naming.VOLUME else {})
        self.objects[kind, name] = new
        return new

    def remove(self, thing: Mapping[str, Any]) -> None:
        """Remove an object from the store."""
        self.version += 1
        del self.objects[thing["kind"], thing["metadata"]["name"]]

    def touch(self, thing: Thing) -> None:
        """Assign the next resourceVersion to a changed object."""
        self.version += 1
        thing["metadata"]["resourceVersion"] = str(self.version)

    def mark_deleted(self, thing: Thing) -> None:
        """Mark an object as terminating; ``controllers.collect`` removes the object later."""
        if "deletionTimestamp" not in thing["metadata"]:
            thing["metadata"]["deletionTimestamp"] = self.stamp()
            self.touch(thing)

    def identity(self) -> Thing:
        """Return the metadata that the API server assigns."""
        self.identities += 1
        self.version += 1
        return {
            "namespace": "ns",
            "uid": f"uid-{self.identities}",
            "resourceVersion": str(self.version),
            "creationTimestamp": self.stamp(),
        }

    def stamp(self) -> str:
        """Return the current time in the format of Kubernetes."""
        return self.now.strftime("%Y-%m-%dT%H:%M:%SZ")

    def wait(self, seconds: float) -> None:
        """Advance the time."""
        self.now += timedelta(seconds=seconds)

    def present_job(self) -> Thing:
        """Return the stored FineTuneJob, which must exist."""
        assert self.job is not None
        return self.job

    @property
    def status(self) -> Thing:
        """The stored status of the FineTuneJob."""
        status: Thing = self.present_job()["status"]
        return status

    def running_progress(self) -> PodProgress | None:
        """Return the metrics with the uid of the running stage pod, unless they contain a uid."""
        if self.progress is None or self.progress.pod:
            return self.progress
        running = {
            pod["metadata"]["labels"].get("finetune.dev/stage"): pod["metadata"]["uid"]
            for pod in self._labeled("Pod")
            if pod.get("status", {}).get("phase") == "Running"
        }
        uid = next((running[each] for each in ("train", "merge", "prepare") if each in running), "")
        return replace(self.progress, pod=uid)

    def verification(self) -> Verification | None:
        """Return the result that a running serving pod reports, if it verifies its model."""
        pods = [
            pod
            for pod in self._labeled("Pod")
            if naming.is_serving(pod) and pod.get("status", {}).get("phase") == "Running"
        ]
        if self.outcome is None or not pods:
            return None
        pod = max(pods, key=lambda each: int(each["metadata"]["uid"].split("-")[-1]))
        build = str(naming.label(pod, naming.BUILD))
        return Verification(pod=pod["metadata"]["name"], build=build, outcome=self.outcome)

    def requests(self) -> tuple[Requests, ...]:
        """Return what the running serving pods report, if the status asks for it."""
        if self.status.get("serving", {}).get("idleAfterSeconds") is None:
            return ()
        return tuple(
            self._requests_of(pod)
            for pod in self._labeled("Pod")
            if naming.is_serving(pod) and pod.get("status", {}).get("phase") == "Running"
        )

    def _requests_of(self, pod: Thing) -> Requests:
        if not self.counts_requests:
            return Requests(pod=pod["metadata"]["uid"], count=None)
        started, last = scheduled_since(pod), self.last_request
        requested = last is not None and last >= started
        since = last if last is not None and requested else started
        return Requests(
            pod=pod["metadata"]["uid"],
            count=int(requested),
            idle_seconds=(self.now - since).total_seconds(),
        )

    def _labeled(self, kind: str) -> Iterator[Thing]:
        for found in self.each(kind):
            if found["metadata"]["labels"].get(naming.JOB) == self.name:
                yield found

    def _trimmed(self, kind: str) -> tuple[Thing, ...]:
        """Return copies of the listed objects of a kind, trimmed as the operator does."""
        contents = (marshal.dumps(found, 2) for found in self._labeled(kind))
        return tuple(marshal.loads(_trimmed_content(each)) for each in contents)

    def _write_status(self, snapshot: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        job = self.job
        if (
            job is None
            or job["metadata"]["resourceVersion"] != snapshot["metadata"]["resourceVersion"]
        ):
            raise Refused("the FineTuneJob has changed")
        new = stored(status)
        check_status(new)
        job["status"] = new
        self.touch(job)
        self.remember(status)

    def remember(self, status: Mapping[str, Any]) -> None:
        """Record the revision and build of a status."""
        for key, known in (("revision", self.revisions), ("build", self.builds)):
            if status.get(key) not in (None, *known):
                known.append(status[key])

    def _act(self, snapshot: Snapshot, action: Action) -> None:
        kind, name = action.object["kind"], action.object["metadata"]["name"]
        present = self.get(kind, name)
        adopts = isinstance(action, Patch) and naming.may_adopt(snapshot.job, action.object)
        if present is not None and not adopts and not naming.owned_by(snapshot.job, present):
            raise Refused(f"{kind} {name} has another owner")
        match action:
            case Create():
                if present is None:
                    present = self.add(action.object)
                elif not same_content(action.object, present):
                    raise OtherContent(present)
                if kind == "Job":
                    # The operator learns the uid, and reconciles once more to record it.
                    self.created[present["metadata"]["uid"]] = True
                    self.confirmed.add(present["metadata"]["uid"])
                    self.version += 1
            case Apply():
                self._apply(snapshot, action.object, present)
            case Patch():
                if present is None:
                    raise Refused(f"{kind} {name} is gone")
                self._same_version(action.object, present)
                merge(present, action.changes, nulls_remove=True)
                self.touch(present)
            case Delete():
                if present is None:
                    return
                self._same_version(action.object, present)
                self.mark_deleted(present)
            case Scale():
                if present is None:
                    raise Refused(f"{kind} {name} is gone")
                self._same_version(action.object, present)
                present["spec"]["replicas"] = action.replicas
                present["metadata"]["generation"] += 1
                self.touch(present)

    def _apply(self, snapshot: Snapshot, body: Mapping[str, Any], present: Thing | None) -> None:
        observed = {
            each["metadata"]["name"]: each for each in getattr(snapshot, LISTS[body["kind"]])
        }.get(body["metadata"]["name"])
        if present is None:
            self.add(body)
            return
        if observed is not None:
            self._same_version(observed, present)
        changed = copied(present)
        if body["kind"] == "Service":
            # An atomic map.
            changed["spec"]["selector"] = {}
        merge(changed, {key: body[key] for key in ("metadata", "spec")})
        if changed["spec"] != present["spec"]:
            check_change(present, changed)
            changed["metadata"]["generation"] += 1
        if changed != present:
            self.objects[body["kind"], body["metadata"]["name"]] = changed
            self.touch(changed)

    def _same_version(self, observed: Mapping[str, Any], present: Thing) -> None:
        for key in ("uid", "resourceVersion"):
            if observed["metadata"][key] != present["metadata"][key]:
                raise Refused(f"{present['kind']} {present['metadata']['name']} has changed")


def copied(value: Any) -> Any:
    """Return a deep copy of a JSON value, ten times as fast as ``copy.deepcopy``."""
    return marshal.loads(marshal.dumps(value, 2))


@functools.lru_cache(maxsize=4096)
def _trimmed_content(content: bytes) -> bytes:
    """Return a trimmed object; both are the bytes of ``marshal``. Most objects seldom change."""
    return marshal.dumps(trimmed(marshal.loads(content)), 2)


def merge(into: Thing, changes: Mapping[str, Any], *, nulls_remove: bool = False) -> None:
    """Merge objects field by field, and replace all other values."""
    for key, value in changes.items():
        if value is None and nulls_remove:
            into.pop(key, None)
        elif isinstance(value, Mapping):
            if not isinstance(into.get(key), dict):
                into[key] = {}
            merge(into[key], value, nulls_remove=nulls_remove)
        else:
            into[key] = copied(value)


def stored(value: Any) -> Any:
    """Return a value as the API server would store it: without nulls and empty objects."""
    kind = type(value)
    if kind is dict:
        items = ((key, stored(each)) for key, each in value.items())
        return {key: each for key, each in items if each is not None and each != {}}
    if kind is list or kind is tuple:
        return [stored(each) for each in value]
    return value


def check_status(status: Mapping[str, Any]) -> None:
    """Raise an error if the CRD would reject a status or prune a field of it."""
    FineTuneJobStatus.model_validate(status)
    # Trainers can report other reasons than those of the CRD; the tests use arbitrary ones.
    stages = [stage for each in status.get("revisions", ()) for stage in each.get("stages", ())]
    known = {*Reason, *(stage.get("reason") for stage in stages)}
    for condition in status.get("conditions", ()):
        explained = condition["type"] != "Ready" or condition["reason"] in known
        assert explained, f"Reason has no member for {condition}"
    unknown = list(unknown_keys(status, STATUS_SCHEMA, "status"))
    assert not unknown, f"the API server would prune {unknown}"


def unknown_keys(value: Any, schema: Mapping[str, Any], path: str) -> Iterator[str]:
    """Yield the paths in a value that are not in a structural schema."""
    if isinstance(value, Mapping):
        properties = schema.get("properties", {})
        for key, each in value.items():
            if key in properties:
                yield from unknown_keys(each, properties[key], f"{path}.{key}")
            elif "additionalProperties" in schema:
                yield from unknown_keys(each, schema["additionalProperties"], f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif isinstance(value, list):
        for each in value:
            yield from unknown_keys(each, schema.get("items", {}), f"{path}[]")


def check_change(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Reject a change of a claim, except a larger size of a bound claim."""
    if before["kind"] != naming.VOLUME:
        return
    old, new = copied(before["spec"]), copied(after["spec"])
    old_size, new_size = (spec.pop("resources")["requests"]["storage"] for spec in (old, new))
    if (
        before["status"].get("phase") != "Bound"
        or old != new
        or gibibytes(new_size) < gibibytes(old_size)
    ):
        raise Refused(f"the claim is immutable: {before['spec']} -> {after['spec']}")


def gibibytes(size: str) -> float:
    """Return a size in GiB; the tests use Gi and Ti."""
    return float(size[:-2]) * {"Gi": 1, "Ti": 1024}[size[-2:]]
