"""The status of the endpoint: what the rollout knows about each name. Reads only."""

from finetune_api.contracts.endpoint import (
    LONGEST_MESSAGE,
    EndpointStatus,
    NameStatus,
    State,
    WantedName,
)
from finetune_gate.names import Route
from finetune_gate.rollout import Rollout
from finetune_gate.swap import Adapter, identity
from finetune_gate.usage import Usage
from finetune_gate.wanted import Wanted


class Report:
    """Makes the status."""

    def __init__(
        self,
        rollout: Rollout,
        wanted: Wanted,
        usage: Usage,
        *,
        max_adapters: int,
        pod: str = "",
    ) -> None:
        self._rollout, self._wanted, self._usage, self._pod = rollout, wanted, usage, pod
        self._max_adapters = max_adapters

    def status(self, boot: str | None) -> EndpointStatus:
        """Return the state of all names. boot: the running start of vLLM, if any."""
        current, rollout = self._wanted.current, self._rollout
        names = current.names if current is not None else ()
        return EndpointStatus(
            endpoint=self._wanted.endpoint,
            pod=self._pod,
            sequence=None if current is None else current.sequence,
            refused=self._wanted.refused,
            boot=boot,
            self_test=rollout.self_test or "",
            self_test_failed=rollout.self_test is not None
            and not rollout.base_is_exact
            and rollout.table.boot == boot,
            free=max(0, rollout.loaded.free),
            names=tuple(self._name(name, boot) for name in names),
        )

    def _name(self, wanted: WantedName, boot: str | None) -> NameStatus:
        table = self._rollout.table
        route: Route | None = None
        adapter: Adapter | None = None
        # Until the rollout has noticed a restart of vLLM, it knows adapters of the one before.
        if boot == table.boot:
            route = table.routes.get(wanted.name)
            adapter = self._rollout.loaded.adapters.get(identity(wanted))
        state, message = self._state(wanted, route, adapter)
        total = self._usage.of(wanted.name)
        proved = {} if route is None else _proved(route)
        return NameStatus(
            name=wanted.name,
            job=wanted.job,
            revision=wanted.revision,
            adapter=wanted.adapter,
            attempt=wanted.attempt,
            state=state,
            message=message[:LONGEST_MESSAGE],
            different_blocks=None if adapter is None else adapter.arrived.different_blocks,
            requests=total.requests,
            prompt_tokens=total.prompt,
            completion_tokens=total.completion,
            **proved,
        )

    def _state(
        self, wanted: WantedName, route: Route | None, adapter: Adapter | None
    ) -> tuple[State, str]:
        rollout, key = self._rollout, identity(wanted)
        loaded, attempt = rollout.loaded, (wanted.job, wanted.attempt)
        failure = loaded.failures.get(key)
        # The rollout forgets the results of earlier attempts only in its next step.
        if failure is not None and attempt not in failure.attempts:
            failure = None
        if route is not None and adapter is not None and route.internal == adapter.internal:
            return "Serving", route.proof.message
        if failure is not None and failure.is_reported:
            return "Failed", failure.message
        if adapter is not None and adapter.proof is not None and attempt in adapter.attempts:
            return "Failed", f"the endpoint does not allow Inconclusive: {adapter.proof.message}"
        if adapter is not None:
            return "Proving", failure.message if failure else rollout.self_test or ""
        if rollout.loading == key:
            return "Loading", ""
        if loaded.free <= 0:
            return "Full", f"all {self._max_adapters} places for adapters are taken"
        return "Waiting", failure.message if failure else ""


def _proved(route: Route) -> dict[str, object]:
    return {
        "answers": route.adapter,
        "boot": route.proof.boot,
        "outcome": route.proof.outcome,
        "distance": route.proof.distance,
        "tolerance": route.proof.tolerance,
        "smallest_fault": route.proof.smallest_fault,
    }
