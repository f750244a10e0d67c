"""Budgets, usage and profiles."""

from collections.abc import Iterator, Mapping
from typing import Any

from finetune_api.v1alpha1.profile import DEFAULT_ANNOTATION
from finetune_cli.ui.pages.html import Child, h
from finetune_cli.ui.pages.layout import MONEY, PROFILES, Page, Region, note, state, table
from finetune_cli.ui.reading.catalog import MOST, Money, Objects
from finetune_cli.ui.reading.rights import Part

AMOUNTS = ("limit", "used", "reserved", "remaining")
SIDES = {"training": "Exhausted", "serving": "ServingExhausted"}
"""What a budget limits, with the condition that says whether it is used up."""
Object = Mapping[str, Any]


def money(reading: Money) -> Page:
    """Return the page about budgets and usage."""
    return Page(
        title=MONEY,
        section=MONEY,
        regions=(
            Region(id="budgets", title="Budgets", content=_objects(reading.budgets, _budgets)),
            Region(id="usage", title="Usage", content=_objects(reading.usages, _usages)),
        ),
    )


def profiles(part: Part[Objects]) -> Page:
    """Return the page about profiles."""
    content = _objects(part, _profiles)
    region = Region(id="profiles", title=PROFILES, content=content, live=False, named=False)
    return Page(title=PROFILES, regions=(region,), section=PROFILES)


def _objects(part: Part[Objects], show: Any) -> Child:
    if part.problem:
        return note(part.problem, "problem")
    if not part.value:
        return note("There is none.")
    shown: Child = show(part.value)
    return shown, note(f"Only the first {MOST} are listed.") if len(part.value) >= MOST else None


def _budgets(objects: Objects) -> Child:
    head = ("Name", "Period until", "State", "Quantity", "Limit", "Used", "Reserved", "Remaining")
    rows: list[tuple[Child, ...]] = []
    for budget in objects:
        until = _time(str((budget.get("status") or {}).get("periodEnd") or "-"))
        rows += [(_name(budget), until, *row) for row in _limits(budget)]
    return table("Budgets in the present period", head, rows)


def _limits(budget: Object) -> Iterator[tuple[Child, ...]]:
    """Yield state, quantity and amounts of each limit."""
    spec, status = budget.get("spec") or {}, budget.get("status") or {}
    for side, condition in SIDES.items():
        limits, account = spec.get(side) or {}, status.get(side) or {}
        for unit, key in (("GPU-hours", "gpuHours"), (spec.get("currency"), "cost")):
            amounts = account.get(key) or {}
            if amounts.get("limit"):
                shown = (str(amounts.get(name) or "-") for name in AMOUNTS)
                yield (_exhausted(status, condition), f"{unit} of {side}", *shown)
        for quantity, most, present in (
            ("running jobs", limits.get("maxRunning"), account.get("running") or 0),
            ("GPUs", limits.get("maxGpus"), account.get("gpus") or 0),
        ):
            if most is not None:
                numbers = (str(most), str(present), "-", str(max(most - present, 0)))
                yield (_exhausted(status, condition), f"{quantity} of {side}", *numbers)


def _time(text: str) -> str:
    """Return a time for people, without the hour if it is midnight."""
    day, _, clock = text.partition("T")
    return day if clock in ("", "00:00:00Z") else f"{day} {clock[:5]} UTC"


def _exhausted(status: Object, type_: str) -> Child:
    for condition in status.get("conditions") or ():
        if condition.get("type") == type_:
            kind = "good" if condition.get("status") == "False" else "bad"
            return state(str(condition.get("reason", "")), kind)
    return "-"


def _usages(objects: Objects) -> Child:
    rows = sorted(
        (_usage(usage) for usage in objects), key=lambda row: (row[1], row[0]), reverse=True
    )
    head = ("Namespace", "Month", "GPU-hours of training", "GPU-hours of serving", "Cost")
    return table("Usage by namespace and month", head, rows)


def _usage(usage: Object) -> tuple[str, ...]:
    spec, status = usage.get("spec") or {}, usage.get("status") or {}
    amounts = (str(status.get(field) or "-") for field in ("training", "serving", "cost"))
    return str(spec.get("namespace", "-")), str(spec.get("month", "-")), *amounts


def _profiles(objects: Objects) -> Child:
    rows: list[tuple[Child, ...]] = []
    for profile in objects:
        spec = profile.get("spec") or {}
        price = spec.get("price") or {}
        costs = f"{price['perGpuHour']} {price.get('currency', '')}" if price else "-"
        annotations = (profile.get("metadata") or {}).get("annotations") or {}
        default = "yes" if annotations.get(DEFAULT_ANNOTATION) == "true" else ""
        rows.append(
            (
                _name(profile),
                str(spec.get("description") or ""),
                str(spec.get("card") or "any"),
                costs,
                default,
            )
        )
    head = ("Name", "Description", "Card", "Price of a GPU-hour", "Default")
    return (
        table("Profiles", head, rows),
        note(("A job uses a profile with ", h("code", "spec.profile"), ".")),
    )


def _name(object_: Object) -> str:
    return str((object_.get("metadata") or {}).get("name", ""))
