"""Budgets, usage and profiles."""

from collections.abc import Mapping
from typing import Any

from finetune_api.v1alpha1.profile import DEFAULT_ANNOTATION
from finetune_cli.ui.pages.html import Child, h
from finetune_cli.ui.pages.layout import MONEY, PROFILES, Page, Region, note, state, table
from finetune_cli.ui.reading.catalog import MOST, Money, Objects
from finetune_cli.ui.reading.rights import Part

AMOUNTS = ("limit", "used", "reserved", "remaining")
Object = Mapping[str, Any]


def money(found: Money) -> Page:
    """Return the page about budgets and usage."""
    return Page(
        title=MONEY,
        section=MONEY,
        regions=(
            Region(id="budgets", title="Budgets", content=_objects(found.budgets, _budgets)),
            Region(id="usage", title="Usage", content=_objects(found.usages, _usages)),
        ),
    )


def profiles(found: Part[Objects]) -> Page:
    """Return the page about profiles."""
    content = _objects(found, _profiles)
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
        status = budget.get("status") or {}
        training = status.get("training") or {}
        currency = (budget.get("spec") or {}).get("currency") or ""
        for quantity, key in (("GPU-hours", "gpuHours"), (currency, "cost")):
            if account := training.get(key):
                amounts = (account.get(name, "-") for name in AMOUNTS)
                until = str(status.get("periodEnd", "-"))
                rows.append((_name(budget), until, _exhausted(status), quantity, *amounts))
    return table("Budgets in the present period", head, rows)


def _exhausted(status: Object) -> Child:
    for condition in status.get("conditions") or ():
        if condition.get("type") == "Exhausted":
            kind = "bad" if condition.get("status") == "True" else "good"
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
