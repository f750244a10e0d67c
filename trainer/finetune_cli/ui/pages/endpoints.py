"""Shared endpoints: the names that they serve, and the proof of each name."""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_api.v1alpha1.endpoints.spec import ENDPOINT_KIND
from finetune_api.v1alpha1.reasons import Reason
from finetune_cli.ui.pages import charts, states
from finetune_cli.ui.pages.html import Child, h, url
from finetune_cli.ui.pages.layout import ENDPOINTS, Page, Region, note, pairs, state, table
from finetune_cli.ui.reading.endpoints import MOST, EndpointList

SERVING = "Serving"
STATES = {
    SERVING: states.GOOD,
    "Failed": states.BAD,
    Reason.NAME_CONFLICT: states.BAD,
    "Loading": states.RUNNING,
    "Proving": states.RUNNING,
}
"""The kinds of the states of a name; every other one waits."""
SHOWN_DIGITS = 12
Object = Mapping[str, Any]


def page(endpoints: EndpointList) -> Page:
    """Return the list of endpoints."""
    region = Region(id="endpoints", title=ENDPOINTS, content=_list(endpoints), named=False)
    return Page(title=f"{ENDPOINT_KIND}s", regions=(region,), section=ENDPOINTS)


def endpoint_page(endpoint: Object) -> Page:
    """Return the page of one endpoint."""
    name, namespace = _place(endpoint)
    models = _status(endpoint).get("models") or ()
    return Page(
        title=name,
        actions=h("a", "Playground", href=url("endpoints", namespace, name, "playground")),
        path=(h("a", f"{ENDPOINT_KIND}s", href=url("endpoints")), f" / {namespace}"),
        regions=(
            Region(id="state", title="State", content=_state(endpoint)),
            Region(id="names", title="Names", content=_names(models, namespace)),
        ),
        section=ENDPOINTS,
    )


def _list(endpoints: EndpointList) -> Child:
    limited = (
        note(
            f"Only the endpoints of namespace {endpoints.only} are listed, because you may not "
            f"list {ENDPOINT_KIND}s in all namespaces."
        )
        if endpoints.only
        else None
    )
    if not endpoints.objects:
        return limited, note(f"There is no {ENDPOINT_KIND}.")
    rows = [_row(endpoint) for endpoint in endpoints.objects]
    head = ("Name", "Namespace", "State", "Names that answer", "Free places", "Base model")
    more = note(f"Only the first {MOST} are listed.") if len(rows) >= MOST else None
    return limited, table(ENDPOINTS, head, rows), more


def _row(endpoint: Object) -> tuple[Child, ...]:
    name, namespace = _place(endpoint)
    status = _status(endpoint)
    return (
        h("a", name, href=url("endpoints", namespace, name)),
        namespace,
        _ready(endpoint),
        str(status.get("summary") or ""),
        str(status.get("freeSlots", "")),
        str(((endpoint.get("spec") or {}).get("model") or {}).get("source") or ""),
    )


def _state(endpoint: Object) -> Child:
    status, model = _status(endpoint), (endpoint.get("spec") or {}).get("model") or {}
    return (
        h("p", _ready(endpoint)),
        h("p", str(_condition(endpoint).get("message") or ""), class_="message"),
        pairs(
            (
                ("Base model", model.get("source")),
                ("Endpoint", status.get("endpoint")),
                ("Free places", status.get("freeSlots")),
                ("Self-test", status.get("selfTest")),
            )
        ),
    )


def _names(models: Sequence[Object], namespace: str) -> Child:
    if not models:
        return note("No job has attached itself to this endpoint.")
    rows: list[tuple[Child, ...]] = []
    for model in models:
        words, job = str(model.get("state") or "Unknown"), str(model.get("job") or "")
        earlier = model.get("answers") not in (None, model.get("adapter"))
        rows.append(
            (
                str(model.get("name")),
                state(words, STATES.get(words, states.WAITING)),
                (_proof(model), note("An earlier adapter answers.") if earlier else None),
                h("a", job, href=url("jobs", namespace, job)),
                h("code", str(model.get("adapter") or "")[:SHOWN_DIGITS]),
                _message(model, words),
            )
        )
    head = ("Name", "State", "Verification", "Job", "Adapter (SHA-256)", "Message")
    return table("Names, with their verification", head, rows)


def _message(model: Object, words: str) -> Child:
    """Return the message. The one of a name that serves is the report of its verification."""
    message = str(model.get("message") or "")
    if words != SERVING or not message:
        return message
    return h("details", h("summary", "Report"), message, id=f"report-{model.get('name')}")


def _proof(model: Object) -> Child:
    """Return the outcome, and the distance beside its limit."""
    outcome = str(model.get("outcome") or "")
    gauge = charts.gauge(model)
    return (
        state(outcome, states.OUTCOMES.get(outcome, states.WAITING)) if outcome else None,
        gauge,
        "-" if not outcome and gauge is None else None,
    )


def _ready(endpoint: Object) -> Child:
    condition = _condition(endpoint)
    reason = str(condition.get("reason") or Reason.PENDING)
    return state(reason, states.of_reason(reason, ready=condition.get("status") == "True"))


def _condition(endpoint: Object) -> Object:
    conditions = _status(endpoint).get("conditions") or ()
    return next((condition for condition in conditions if condition.get("type") == "Ready"), {})


def _status(endpoint: Object) -> Object:
    return endpoint.get("status") or {}


def _place(endpoint: Object) -> tuple[str, str]:
    metadata = endpoint["metadata"]
    return str(metadata["name"]), str(metadata["namespace"])
