"""A plan as text, as JSON and as Markdown. Values of manifests are escaped in all of them."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from finetune_api import KIND
from finetune_api.contracts.cost import cost, hours, money
from finetune_api.edits.effects import Effect
from finetune_api.safety.printable import printable
from finetune_cli.planning.job_plan import Code, JobPlan
from finetune_cli.planning.verdicts import Answer, Verdict

LONGEST = 60
"""Characters of a value in a table."""
SENTENCES = {
    Effect.RETRAIN: "trains a new revision",
    Effect.REMERGE: "repeats the merge",
    Effect.ROLL: "replaces the serving pods",
    Effect.RETRY: "starts another attempt of the stage",
    Effect.PUBLISH: "publishes the model again",
    Effect.NOTHING: "repeats no work",
}
MARKS = {Answer.YES: "✅", Answer.NO: "❌", Answer.WAITS: "⏳", Answer.UNKNOWN: "❔"}
REMOVAL = (
    "Argo CD and Flux delete the job if they prune; kubectl apply does not. Its volumes, with the "
    "models of all revisions, are deleted with it."
)
PROFILE_REMOVAL = (
    "The files have a profile no longer: Argo CD and Flux delete it if they prune; kubectl apply "
    "does not. If the profile is not deleted, the job does not change"
)
NO_JOB = "No FineTuneJob uses the changed or removed profiles"
COMMENT = "<!-- ftj plan -->"
"""First line of the Markdown, by which a job of a pipeline finds its earlier comment."""
SPECIAL = re.compile(r"([\\`*_{}\[\]<>|&~$])")
LINKS = re.compile(r"([@#!])")
"""Characters that begin links to people, issues and merge requests."""


def headline(plan: JobPlan) -> str:
    """Return what happens to a job, as one line."""
    title = f"{KIND} {plan.namespace}/{plan.name}"
    if plan.errors:
        waits = f"waits with the reason {plan.waits}"
        return f"{title} {waits if plan.waits is not None else 'is not valid'}"
    if plan.removed:
        return f"{title} is in no manifest any more"
    if plan.new:
        return f"{title} is created, and trained as revision {plan.revision}"
    if not plan.lines and plan.effects == {Effect.NOTHING}:
        return f"{title} does not change"
    done = [SENTENCES[effect] for effect in Effect if effect in plan.effects]
    return f"{title} changes: the operator {' and '.join(done)}"


def rows(plan: JobPlan) -> Iterator[tuple[str, str, str, str]]:
    """Yield field, old value, new value and effect of each change."""
    for line in plan.lines:
        change = line.change
        by = "" if change.written else " (default)"
        yield change.field, value(change.before), f"{value(change.after)}{by}", line.effect.value


def facts(plan: JobPlan) -> Iterator[tuple[str, str]]:
    """Yield the consequences of a plan, with their names."""
    yield from (("error", error) for error in plan.errors)
    if plan.errors:
        return
    if plan.returns:
        yield "returns", plan.returns
    if plan.discarded:
        yield "discards", plan.discarded
    if plan.endpoint:
        yield "endpoint", plan.endpoint
    if plan.removed:
        yield "removal", REMOVAL
    if plan.trains:
        yield "GPU time", _time(plan)
        yield "cost", _cost(plan)
    for name, verdict in verdicts(plan):
        yield name, verdict.text if verdict.answer is not Answer.UNKNOWN else _unknown(verdict)
    yield from (("warning", warning) for warning in plan.warnings)


def verdicts(plan: JobPlan) -> list[tuple[str, Verdict]]:
    """Return the verdicts that a plan has, with their names."""
    named = (("GPU memory", plan.fit), ("limits", plan.policy), ("budget", plan.budget))
    return [(name, verdict) for name, verdict in named if verdict is not None]


def summary(plans: Sequence[JobPlan]) -> str:
    """Return how many jobs there are of each exit code, as one sentence."""
    counts = {code: sum(plan.code is code and not plan.removed for plan in plans) for code in Code}
    words = {
        Code.TRAINS: "will be trained",
        Code.REJECTED: "will be rejected",
        Code.INVALID: "not valid",
        Code.HARMLESS: "without training",
    }
    parts = [f"{counts[code]} {words[code]}" for code in words if counts[code]]
    parts += [f"{removed} removed"] if (removed := sum(plan.removed for plan in plans)) else []
    if silent := sum(plan.silent for plan in plans):
        parts.append(f"of which {silent} with a changed profile do not change")
    if not parts:
        return NO_JOB
    return f"{len(plans)} job{'s' * (len(plans) != 1)}: {', '.join(parts)}"


def highest(plans: Sequence[JobPlan]) -> Code:
    """Return the exit code of several plans."""
    return max((plan.code for plan in plans), default=Code.HARMLESS)


def document(plans: Sequence[JobPlan], source: str) -> dict[str, Any]:
    """Return the plans as one JSON document."""
    return {
        "state": source,
        "exitCode": int(highest(plans)),
        "jobs": [_facts_of(plan) for plan in plans],
    }


def markdown(plans: Sequence[JobPlan], source: str) -> str:
    """Return the plans as Markdown for a comment on a merge request."""
    lines = [COMMENT, "### Plan of the fine-tuning jobs", "", f"{_escaped(summary(plans))}.", ""]
    for plan in plans:
        if plan.silent:
            continue
        lines += [f"#### {_escaped(headline(plan))}", ""]
        if changed := [*rows(plan)]:
            lines += ["| field | before | after | effect |", "|---|---|---|---|"]
            lines += [f"| {' | '.join(map(_code, row))} |" for row in changed]
            lines.append("")
        marks = {name: MARKS[verdict.answer] for name, verdict in verdicts(plan)}
        for name, text in facts(plan):
            mark = f"{marks[name]} " if name in marks else ""
            lines.append(f"* {mark}**{name}**: {_escaped(text)}")
        lines.append("")
    lines.append(f"Compared with {_escaped(source)}.")
    return "\n".join(lines)


def value(present: Any) -> str:
    """Return a value as one short line."""
    if present is None:
        return "–"
    text = present if isinstance(present, str) else json.dumps(present, ensure_ascii=False)
    text = printable(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _time(plan: JobPlan) -> str:
    if plan.seconds is None:
        return f"unknown: set {plan.missing}" if plan.missing else "unknown"
    low, high = plan.seconds
    return f"{hours(low)} to {hours(high)} GPU-hours"


def _cost(plan: JobPlan) -> str:
    if plan.price is None:
        return "unknown: the job has no profile with a price; set --price"
    if plan.seconds is None:
        return f"unknown, at {plan.price.per_gpu_hour} {plan.price.currency} per GPU-hour"
    low, high = (money(cost(plan.price.per_gpu_hour, bound)) for bound in plan.seconds)
    return f"{low} to {high} {plan.price.currency}"


def _unknown(verdict: Verdict) -> str:
    return f"unknown: {verdict.text}"


def _facts_of(plan: JobPlan) -> dict[str, Any]:
    price, seconds = plan.price, plan.seconds
    return {
        "file": plan.file,
        "namespace": plan.namespace,
        "name": plan.name,
        "new": plan.new,
        "removed": plan.removed,
        "indirect": plan.indirect,
        "errors": list(plan.errors),
        "effects": [effect.value for effect in Effect if effect in plan.effects],
        "trains": plan.trains and not plan.errors,
        "revision": plan.revision,
        "changes": [
            {
                "field": line.change.field,
                "before": line.change.before,
                "after": line.change.after,
                "written": line.change.written,
                "effect": line.effect.value,
            }
            for line in plan.lines
        ],
        "returns": plan.returns or None,
        "discards": plan.discarded,
        "endpoint": plan.endpoint or None,
        "gpuHours": None if seconds is None else [hours(bound) for bound in seconds],
        "cost": (
            None
            if seconds is None or price is None
            else [money(cost(price.per_gpu_hour, bound)) for bound in seconds]
        ),
        "currency": None if price is None else price.currency,
        **{
            key: None
            if verdict is None
            else {"answer": verdict.answer.value, "reason": verdict.text}
            for key, verdict in (
                ("fit", plan.fit),
                ("policy", plan.policy),
                ("budget", plan.budget),
            )
        },
        "warnings": list(plan.warnings),
        "exitCode": int(plan.code),
    }


def _escaped(text: str) -> str:
    """Return a text as one line of Markdown that contains no markup of its own."""
    return LINKS.sub(r"\1<!-- -->", SPECIAL.sub(r"\\\1", printable(text)))


def _code(text: str) -> str:
    """Return a value as code in a table of Markdown, in which nothing is a link or markup."""
    return f"`{text.replace('`', chr(39)).replace('|', chr(92) + '|')}`"
