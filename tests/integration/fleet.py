"""Many jobs in namespaces of their own, which one fake kubelet runs through their lives.

A life is a generator: it acts as a user, and yields the condition it waits for. One loop acts as
the kubelet and checks the condition of every life. It costs two requests a round, however many
lives there are.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.fakes import kubelet
from tests.integration.controlplane import ControlPlane
from tests.integration.namespace import Namespace

ROUND_SECONDS = 0.3
METADATA = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}

Wait = tuple[str, Callable[[], bool]]
Life = Iterator[Wait]
Fate = Callable[[dict[str, Any]], dict[str, Any] | None]
"""Takes a pod's metadata, returns the status that it gets; None leaves it as it is."""


def all_well(pod: dict[str, Any]) -> dict[str, Any]:
    """Let every stage complete and every server answer."""
    stage = kubelet.stage_of(pod)
    return kubelet.serving() if stage == "serve" else kubelet.completed(stage)


@dataclass(kw_only=True)
class Fleet:
    """See the module. ``fate`` decides about each new pod."""

    plane: ControlPlane
    fate: Fate = all_well
    jobs: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    """The FineTuneJobs as the last round saw them."""
    pods: list[dict[str, Any]] = field(default_factory=list)
    """The metadata of the jobs' pods as the last round saw them."""
    _known: set[str] = field(default_factory=set)
    _waiting: dict[str, tuple[Life, Wait]] = field(default_factory=dict)

    def begin(self, name: str, life: Life) -> None:
        """Begin a life."""
        wait = next(life, None)
        if wait is not None:
            self._waiting[name] = life, wait

    @property
    def alive(self) -> set[str]:
        """The names of the lives that are not over."""
        return set(self._waiting)

    def reason(self, namespace: str, name: str = "demo") -> str:
        """Return the reason of a job's Ready condition, as the last round saw it."""
        job = self.jobs.get((namespace, name), {})
        conditions = job.get("status", {}).get("conditions", ())
        return next((str(c["reason"]) for c in conditions if c["type"] == "Ready"), "")

    def round(self) -> None:
        """Look once, report on new pods, and let every life go on that can."""
        found = self.plane.get("/apis/finetune.dev/v1alpha1/finetunejobs")["items"]
        self.jobs = {
            (each["metadata"]["namespace"], each["metadata"]["name"]): each for each in found
        }
        listed = self.plane.request(
            "GET", "/api/v1/pods?labelSelector=finetune.dev/job", headers=METADATA
        )
        self.pods = listed["items"] or []
        for pod in self.pods:
            uid = pod["metadata"]["uid"]
            if uid not in self._known and (status := self.fate(pod)) is not None:
                self._known.add(uid)
                kubelet.report(Namespace(self.plane, pod["metadata"]["namespace"]), pod, status)
        for name, (life, (_, ready)) in list(self._waiting.items()):
            if not ready():
                continue
            wait = next(life, None)
            if wait is None:
                del self._waiting[name]
            else:
                self._waiting[name] = life, wait

    def until(self, what: str, ready: Callable[[], bool], seconds: float = 120) -> None:
        """Go round until it is so. Raises TimeoutError naming what each life waits for."""
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                waits = {name: what for name, (_, (what, _)) in self._waiting.items()}
                raise TimeoutError(f"{what}: not so within {seconds:.0f} s; waiting: {waits}")
            began = time.monotonic()
            self.round()
            time.sleep(max(0.0, ROUND_SECONDS - (time.monotonic() - began)))
