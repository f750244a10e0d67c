"""The results of the present revision: losses, verification, evaluation, estimate and cost."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from finetune_api.contracts.cost import hours
from finetune_api.durations import duration
from finetune_api.v1alpha1.status.loss_history import Name
from finetune_cli.cluster import revisions
from finetune_cli.cluster.history import History
from finetune_cli.cluster.job import Job
from finetune_cli.cluster.stages import StageLine
from finetune_cli.plotting.curves import Curve
from finetune_cli.ui.pages import charts, states
from finetune_cli.ui.pages.html import Child, h, url
from finetune_cli.ui.pages.layout import note, pairs, state, table
from finetune_cli.ui.reading.rights import Part

LOSSES: dict[Name, str] = {"loss": "training loss", "evalLoss": "held-out loss"}
MOST_ROWS = 200
UNRECORDED = "the distance was not recorded"
Object = Mapping[str, Any]


def curves(history: History) -> list[Curve]:
    """Return the training loss and the held-out loss."""
    return [
        Curve(name=words, points=history.series.get(name, ()), measured=name == "evalLoss")
        for name, words in LOSSES.items()
    ]


def glance(job: Job) -> Child:
    """Return a summary: the serving revision, its verification, its held-out loss and its cost."""
    serving = job.status.get("serving") or {}
    proof = job.status.get("verification") or {}
    measured = (job.revision.get("artifacts") or {}).get("evaluation") or {}
    tuned = measured.get("original") or measured.get("dequantized") or {}
    outcome = str(proof.get("outcome") or "")
    return pairs(
        (
            (
                "Serving revision",
                _fact(serving.get("revision") or serving.get("summary") or "none"),
            ),
            (
                "Verified",
                (
                    state(outcome, states.OUTCOMES.get(outcome, states.WAITING)),
                    h("small", states.distance(proof) or UNRECORDED, class_="quiet"),
                )
                if outcome
                else _fact("not yet"),
            ),
            (
                "Held-out loss",
                _fact(tuned["loss"], f"base model {measured.get('baseLoss', '-')}")
                if tuned.get("loss")
                else _fact("not measured"),
            ),
            ("Training cost", _cost(job)),
        ),
        "facts",
    )


def _fact(words: object, *more: Child) -> Child:
    return h("strong", str(words)), h("span", more, class_="quiet") if more else None


def _cost(job: Job) -> Child:
    spent, (bounds, currency) = revisions.spent(job, job.revision), _expected(job)
    if not isinstance(bounds, Mapping):
        if not spent.currency:
            return _fact("unknown", "no price: the job uses no profile with a price")
        return _fact(spent.text or "none yet", "training only")
    place = _place(spent.amount, bounds) if _trained(job) else ""
    words = f"{place} the expected " if place else "expected "
    expected = h("span", _range(bounds, currency), class_="whole")
    return _fact(spent.text or "none yet", words, expected, ", training only")


def _place(amount: Decimal | None, bounds: Object) -> str:
    """Return where an amount is beside the expected ones, empty if that is unknown."""
    low, high = (states.number(bounds.get(name)) for name in ("low", "high"))
    if amount is None or low is None or high is None:
        return ""
    # An amount is shown, and compared, with two digits.
    shown = round(float(amount), 2)
    return "below" if shown < low else "above" if shown > high else "within"


def _trained(job: Job) -> bool:
    return revisions.stage(job.revision, "train").get("outcome") == "Completed"


def _expected(job: Job) -> tuple[Any, str]:
    status = job.status.get("cost") or {}
    return status.get("expectedCost"), str(status.get("currency") or "")


def losses(job: Job, history: Part[History]) -> Child:
    """Return the curves, a table of their points, and downloads."""
    if history.value is None:
        return note(history.problem, "problem")
    shown = curves(history.value)
    chart = charts.curves(shown, "Training loss and held-out loss by step, in nats per token")
    if chart is None:
        return note("No loss is known of the present revision.")
    place = ("jobs", job.namespace, job.name)
    return (
        chart,
        h(
            "details",
            h("summary", "Points"),
            table("Losses by step", ("Step", "Curve", "Loss"), _points(shown)),
            id="points",
        ),
        h(
            "p",
            "Download: ",
            h("a", "CSV", href=url(*place, "curve.csv"), download=True),
            h("a", "SVG", href=url(*place, "curve.svg"), download=True),
            h("a", "PNG", href=url(*place, "curve.png"), download=True),
            class_="downloads",
        ),
    )


def _points(shown: Sequence[Curve]) -> list[tuple[Child, ...]]:
    points = ((step, curve.name, value) for curve in shown for step, value in curve.points)
    rows: list[tuple[Child, ...]] = [
        (str(step), name, f"{value:g}") for step, name, value in sorted(points)
    ]
    return rows[:MOST_ROWS]


def verification(job: Job) -> Child:
    """Return the outcome, and the distance beside its limit."""
    status = job.status.get("verification") or {}
    outcome = status.get("outcome")
    if not outcome:
        return note("No serving build has been verified.")
    fault = states.number(status.get("smallestFault"))
    gauge = charts.gauge(status)
    return (
        h("p", state(str(outcome), states.OUTCOMES.get(str(outcome), states.WAITING))),
        note(f"{UNRECORDED[0].upper()}{UNRECORDED[1:]}.") if gauge is None else h("p", gauge),
        pairs(
            (
                ("Build", _build(job, str(status.get("build") or ""))),
                ("Pod", status.get("pod")),
                ("Smallest fault", None if fault is None else f"{fault:.2%} of the effect"),
                ("Time", f"{status['seconds']} s" if status.get("seconds") else None),
            )
        ),
    )


def _build(job: Job, build: str) -> str:
    """Return a build with its revision, as far as they are known."""
    for record in reversed(job.revisions):
        if build and any(attempt.get("build") == build for attempt in record.get("stages") or ()):
            return f"{build} of revision {record.get('revision')}"
    return build


def evaluation(job: Job) -> Child:
    """Return the held-out losses of the tuned model and of its base model."""
    status = job.status.get("evaluation") or {}
    measured = (job.revision.get("artifacts") or {}).get("evaluation") or {}
    if not status and not measured:
        return note("The present revision has not been evaluated.")
    rows: list[tuple[Child, ...]] = []
    if measured:
        rows.append(("base model", str(measured.get("baseLoss", "-")), "", ""))
    for key, words in (
        ("original", "tuned, on the published base"),
        ("dequantized", "tuned, on the base rounded to 4 bits"),
    ):
        if build := measured.get(key):
            values = (
                str(build.get(field, "-")) for field in ("loss", "difference", "standardError")
            )
            rows.append((words, *values))
    serving = status.get("againstServing") or {}
    head = ("Model", "Held-out loss", "Difference", "Standard error")
    return (
        _verdict(status),
        table("Held-out losses in nats per token", head, rows) if rows else None,
        note(f"{measured.get('rows')} held-out rows, {measured.get('tokens')} answer tokens.")
        if measured
        else None,
        (h("h3", "Against the serving build"), _verdict(serving)) if serving else None,
    )


def _verdict(status: Object) -> Child:
    if not status:
        return None
    outcome = str(status.get("outcome", ""))
    kind = states.OUTCOMES.get(outcome, states.WAITING)
    return h("p", state(outcome, kind), " ", str(status.get("message", "")))


def cost(job: Job, lines: Sequence[StageLine]) -> Child:
    """Return what was estimated beside what was measured."""
    estimate = job.revision.get("estimate") or {}
    status = job.status.get("cost") or {}
    trained = next((line.time for line in lines if line.stage == "train" and line.begun), "-")
    seconds = estimate.get("trainingSeconds")
    artifacts = job.revision.get("artifacts") or {}
    spent = revisions.spent(job, job.revision)
    rows = (
        (
            "GPU-hours",
            _range(status.get("expectedGpuHours")),
            "-" if spent.seconds is None else hours(spent.seconds),
        ),
        ("cost of training", _whole(_range(*_expected(job))), _whole(spent.text or "-")),
        ("time of training", duration(seconds) if isinstance(seconds, int) else "-", trained),
        ("GPU model", str(estimate.get("card") or "-"), str(artifacts.get("device") or "-")),
        ("GPU memory of training", str(estimate.get("trainingMemory") or "-"), "-"),
        ("GPU memory of serving", str(estimate.get("servingMemory") or "-"), "-"),
        ("volume", str(estimate.get("volume") or "-"), "-"),
    )
    shown: list[tuple[Child, ...]] = [row for row in rows if row[1:] != ("-", "-")]
    if not shown:
        return note("The present revision has neither an estimate nor a cost.")
    return table("Estimated and measured values", ("Quantity", "Estimated", "Measured"), shown)


def _range(value: Any, unit: str = "") -> str:
    if not isinstance(value, Mapping):
        return "-"
    return f"{value.get('low')} to {value.get('high')} {unit}".strip()


def _whole(amount: str) -> Child:
    """Return an amount with its currency, which lines do not break."""
    return amount if amount == "-" else h("span", amount, class_="whole")
