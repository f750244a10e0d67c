"""Wakes the jobs of an endpoint after its state has changed, and an endpoint after its jobs have.

Like the followers of profiles, it observes each reconcile of an endpoint.
"""

from dataclasses import dataclass, field
from typing import Any

from finetune_operator.actions import Apply
from finetune_operator.controller.controller import Controller
from finetune_operator.kube.kinds import FINETUNEENDPOINT, FINETUNEJOB
from finetune_operator.objects import conditions
from finetune_operator.snapshot.endpoints import AttachedJobs
from finetune_operator.snapshot.scraping.gates import Gates
from finetune_operator.types import EndpointSnapshot, Key, Object, Plan, Snapshot


@dataclass(kw_only=True)
class EndpointFollowers:
    """The jobs and the endpoints that are still to be woken; the ``Telemetry`` of endpoints."""

    jobs: Controller[Snapshot]
    attached: AttachedJobs
    gates: Gates
    own: Controller[EndpointSnapshot] | None = None
    """The controller of the endpoints, once it is made."""
    _states: dict[Key, Any] = field(default_factory=dict)

    def observed(self, key: Key, snapshot: EndpointSnapshot, status: Object) -> None:
        """Wake the jobs of an endpoint if something that they depend on has changed."""
        reasons = [
            (condition.get("status"), condition.get("reason"))
            for condition in (
                conditions.get({"status": status}, type_) for type_ in ("Ready", "BaseReady")
            )
        ]
        metadata = snapshot.endpoint["metadata"]
        state = (
            metadata["uid"],
            metadata["generation"],
            reasons,
            status.get("models"),
            status.get("base"),
            status.get("volume"),
            status.get("folders"),
        )
        if self._states.get(key) != state:
            self._states[key] = state
            self._wake(key)

    def written(self, snapshot: EndpointSnapshot, plan: Plan) -> None:
        """Send a list of names to the gate, once its number is in the status."""
        before, after = (
            status.get("wanted") for status in (snapshot.endpoint.get("status") or {}, plan.status)
        )
        if before == after:
            return
        metadata = snapshot.endpoint["metadata"]
        for action in plan.actions:
            if isinstance(action, Apply) and action.object["kind"] == "ConfigMap":
                (document,) = action.object["data"].values()
                key = metadata["namespace"], metadata["name"]
                self.gates.offer(key, plan.status["wanted"]["sequence"], document)

    def forget(self, key: Key) -> None:
        """Wake the jobs of an endpoint that was deleted, or that another replica reconciles."""
        if self._states.pop(key, None) is not None:
            self._wake(key)

    async def run(self) -> None:
        """Wake endpoints until cancelled."""
        while True:
            await self.attached.changed.wait()
            for key in sorted(self.attached.take_changed()):
                if self.own is not None:
                    self.own.notify(key, FINETUNEJOB, 0, True)

    def _wake(self, key: Key) -> None:
        for job in sorted(self.attached.keys(key)):
            self.jobs.notify(job, FINETUNEENDPOINT, 0, True)
