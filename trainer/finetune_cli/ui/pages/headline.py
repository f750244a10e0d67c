"""Why a job is in its state, as ``ftj why`` says it, and the time of its stages."""

from collections.abc import Sequence

from finetune_api.durations import duration
from finetune_cli.cluster import remedies
from finetune_cli.cluster.job import Job, seconds_since
from finetune_cli.cluster.stages import StageLine
from finetune_cli.ui.pages import charts, states
from finetune_cli.ui.pages.html import Child, h
from finetune_cli.ui.pages.layout import note, pairs, state, table


def announcement(job: Job) -> str:
    """Return the state in one line, which a screen reader reads when it changes."""
    progress = job.status.get("progress")
    return f"{job.ready.reason}{f', {progress}' if progress else ''}"


def state_of(job: Job) -> Child:
    """Return state, message, meaning and remedy."""
    ready, status = job.ready, job.status
    serving = status.get("serving") or {}
    summary = serving.get("summary")
    revisions = (status.get("revision"), serving.get("revision"))
    since = seconds_since(ready.since)
    age = "" if since is None else f" for {duration(since)}"
    remedy = None if ready.true else remedies.remedy(ready.reason)
    meaning = None if ready.true else remedies.meaning(ready.reason)
    kind = states.of_reason(ready.reason, ready=ready.true, stalled=job.condition("Stalled").true)
    return (
        None
        if job.current
        else note("The operator has not reconciled the present spec yet: this state is older."),
        h("p", state(ready.reason, kind), h("span", age, class_="quiet")),
        h("p", ready.message, class_="message"),
        h("p", h("strong", "What to do: "), remedy, class_="remedy") if remedy else None,
        pairs(
            (
                ("Meaning", None if _says(ready.message, meaning) else meaning),
                ("Progress", _progress(job)),
                ("Revision", status.get("revision")),
                # The serving revision is in the summary beside this region.
                ("Serving", None if summary in revisions else summary),
                ("Endpoint", status.get("endpoint")),
                ("Model", serving.get("model")),
            )
        ),
    )


def _says(message: str, meaning: str | None) -> bool:
    """Report whether a message contains a sentence."""
    return meaning is not None and meaning.rstrip(".").casefold() in message.casefold()


def stages(lines: Sequence[StageLine]) -> Child:
    """Return the stages with their durations, as bars from left to right."""
    if not lines:
        return note("No stage has begun.")
    whole = sum(line.seconds or 0 for line in lines) or 1
    detailed = any(line.detail for line in lines)
    rows: list[tuple[Child, ...]] = []
    begin = 0.0
    for line in lines:
        seconds = line.seconds or 0
        kind = states.OUTCOMES.get(line.outcome, states.RUNNING)
        words = f"{line.stage}: {line.time}"
        bar = charts.bar(begin / whole, seconds / whole, words, kind) if seconds else ""
        begin += seconds
        row = (line.stage, state(line.outcome, kind), str(line.attempt), line.time, bar)
        rows.append((*row, line.detail) if detailed else row)
    head = ("Stage", "State", "Attempt", "Time", "Timeline", *(("Detail",) if detailed else ()))
    return table("Stages of the present revision", head, rows)


def warnings(job: Job) -> Child:
    """Return the warnings."""
    listed = job.status.get("warnings") or ()
    return (
        h("ul", [h("li", str(warning)) for warning in listed])
        if listed
        else note("There are none.")
    )


def _progress(job: Job) -> str:
    status = job.status
    parts = (status.get("progress"), f"{status['eta']} left" if status.get("eta") else None)
    return ", ".join(filter(None, parts))
