"""The state of each name of an endpoint, from the list of names and the report of the gate. Pure.

A gate is a pod: its report counts only for names of the list, and only about the adapter that the
list has. After a start of the operator, the states of the status count until the first report.
"""

from collections.abc import Iterable

from finetune_api.contracts.endpoint import EndpointStatus, NameStatus, WantedName
from finetune_api.safety.printable import printable
from finetune_api.v1alpha1.endpoints.status import MOST_MODELS, EndpointModelStatus
from finetune_operator.reconcile.endpoints.names import Names
from finetune_operator.revisions.sharing.endpoints import REFUSED

UNREAD = "The endpoint has not read the new list of names yet."
MAX_MESSAGE = 1024


def models(
    names: Names, gate: EndpointStatus | None, problem: str
) -> tuple[EndpointModelStatus, ...]:
    """Return the states of all names, in a fixed order. problem: why there is no report."""
    reported = {} if gate is None else {model.name: model for model in gate.names}
    states = [_model(model, gate, reported.get(model.name), problem) for model in names.wanted]
    return _listed([*states, *names.unlisted])


def kept(names: Names, previous: Iterable[EndpointModelStatus]) -> tuple[EndpointModelStatus, ...]:
    """Return the states of all names as the status has them, while the first report is awaited."""
    before = {(model.name, model.job): model for model in previous if model.state not in REFUSED}
    states = [_kept(model, before.get((model.name, model.job))) for model in names.wanted]
    return _listed([*states, *names.unlisted])


def _kept(wanted: WantedName, before: EndpointModelStatus | None) -> EndpointModelStatus:
    common = {
        "revision": wanted.revision,
        "adapter": wanted.adapter,
        "attempt": wanted.attempt,
    }
    unread = {"state": "Waiting", "message": UNREAD}
    if before is None:
        return EndpointModelStatus(name=wanted.name, job=wanted.job, **common, **unread)
    is_same = (before.adapter, before.attempt) == (wanted.adapter, wanted.attempt)
    changes = {} if is_same else unread
    return before.model_copy(update={**common, **changes})


def _listed(states: Iterable[EndpointModelStatus]) -> tuple[EndpointModelStatus, ...]:
    return tuple(sorted(states, key=lambda state: (state.name, state.job))[:MOST_MODELS])


def _model(
    wanted: WantedName, gate: EndpointStatus | None, reported: NameStatus | None, problem: str
) -> EndpointModelStatus:
    common = {
        "name": wanted.name,
        "job": wanted.job,
        "revision": wanted.revision,
        "adapter": wanted.adapter,
        "attempt": wanted.attempt,
    }
    if gate is None:
        return EndpointModelStatus(**common, state="Unknown", message=problem)
    if reported is None or reported.job != wanted.job:
        return EndpointModelStatus(**common, state="Waiting", message=UNREAD)
    answers = reported.answers is not None and reported.boot == gate.boot
    proof = {
        "answers": reported.answers,
        "outcome": reported.outcome,
        "distance": _number(reported.distance),
        "tolerance": _number(reported.tolerance),
        "smallest_fault": _number(reported.smallest_fault),
        "different_blocks": reported.different_blocks,
        "boot": reported.boot,
    }
    is_read = (reported.adapter, reported.attempt) == (wanted.adapter, wanted.attempt)
    message = printable(reported.message)[:MAX_MESSAGE] if is_read else UNREAD
    return EndpointModelStatus(
        **common,
        **(proof if answers else {}),
        state=reported.state if is_read else "Waiting",
        message=message or None,
    )


def answering(models: tuple[EndpointModelStatus, ...]) -> int:
    """Return how many names answer with the adapter that they should."""
    return sum(model.state == "Serving" and model.answers == model.adapter for model in models)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"
