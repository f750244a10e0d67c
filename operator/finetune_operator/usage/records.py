"""Accounts as FineTuneUsage objects, and what planners know of them. Pure."""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from finetune_api import API_VERSION
from finetune_api.contracts.cost import hours, money
from finetune_api.v1alpha1.budgets.usage import (
    MONTH_LABEL,
    NAMESPACE_LABEL,
    USAGE_KIND,
    DayUsage,
    FineTuneUsageStatus,
    Purpose,
    UsageMark,
)
from finetune_api.v1alpha1.profile import Price
from finetune_operator.usage.months import Month
from finetune_operator.usage.settlement import DayKey, Mark, MonthAccount
from finetune_operator.usage.values import (
    DayUse,
    NamespaceUsage,
    Reservation,
    cost,
)

EPOCH = date(1970, 1, 1).toordinal()


def name_of(namespace: str, month: Month) -> str:
    """Return the name of the object of a namespace and month."""
    return f"{namespace}-{month}"


def body_of(namespace: str, month: Month) -> dict[str, Any]:
    """Return a new object, whose status is empty."""
    return {
        "apiVersion": API_VERSION,
        "kind": USAGE_KIND,
        "metadata": {
            "name": name_of(namespace, month),
            "labels": {NAMESPACE_LABEL: namespace, MONTH_LABEL: str(month)},
        },
        "spec": {"namespace": namespace, "month": str(month)},
    }


def parsed(usage: Mapping[str, Any]) -> MonthAccount:
    """Return the account in an object. Raises ValueError if another version wrote it."""
    status = FineTuneUsageStatus.model_validate(usage.get("status") or {})
    days: dict[DayKey, int] = {}
    for row in status.days:
        key = _day(row.day), row.purpose, _price(row.price_per_gpu_hour, row.currency)
        days[key] = days.get(key, 0) + row.gpu_seconds
    return MonthAccount(
        month=Month.parse(usage["spec"]["month"]),
        days=days,
        marks={
            mark.key: Mark(
                job=mark.job,
                used=mark.used,
                at=_seconds(mark.at),
                gpus=mark.gpus or 0,
                cap=mark.cap,
                price=_price(mark.price_per_gpu_hour, mark.currency),
                ended=bool(mark.ended),
                estimated=bool(mark.estimated),
            )
            for mark in status.marks
        },
        closed=bool(status.closed),
    )


def status_of(account: MonthAccount) -> dict[str, Any]:
    """Return the status of the object of an account."""
    rows = sorted(account.days.items(), key=lambda row: (row[0][:2], str(row[0][2])))
    status = FineTuneUsageStatus(
        training=_hours(account, "training"),
        serving=_hours(account, "serving"),
        cost=", ".join(f"{money(amount)} {name}" for name, amount in _costs(account.days).items())
        or None,
        closed=account.closed or None,
        days=[
            DayUsage(
                day=date.fromordinal(EPOCH + day).isoformat(),
                purpose=purpose,
                gpu_seconds=seconds,
                cost=None if price is None else f"{cost(price, seconds):.4f}",
                **_written(price),
            )
            for (day, purpose, price), seconds in rows
        ],
        marks=[
            UsageMark(
                key=key,
                job=mark.job,
                used=mark.used,
                at=_text(mark.at),
                gpus=mark.gpus or None,
                cap=mark.cap,
                ended=mark.ended or None,
                estimated=mark.estimated or None,
                **_written(mark.price),
            )
            for key, mark in sorted(account.marks.items())
        ],
    )
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def view(namespace: str, accounts: Iterable[MonthAccount]) -> NamespaceUsage:
    """Return the usage of a namespace. accounts: from the oldest to the present one."""
    seconds: dict[tuple[date, Purpose], int] = {}
    costs: dict[tuple[date, Purpose], dict[str, Decimal]] = {}
    marks: Mapping[str, Mark] = {}
    for account in accounts:
        marks = account.marks
        for (day, purpose, price), amount in account.days.items():
            key = date.fromordinal(EPOCH + day), purpose
            seconds[key] = seconds.get(key, 0) + amount
            if price is not None:
                sums = costs.setdefault(key, {})
                sums[price.currency] = sums.get(price.currency, Decimal()) + cost(price, amount)
    trainings = {key: mark for key, mark in marks.items() if not mark.gpus}
    return NamespaceUsage(
        days={
            key: DayUse(gpu_seconds=amount, costs=costs.get(key, {}))
            for key, amount in seconds.items()
        },
        reservations={
            key: Reservation(
                key=key,
                namespace=namespace,
                job=mark.job,
                cap=mark.cap,
                price=mark.price,
                used=mark.used,
            )
            for key, mark in trainings.items()
            if not mark.ended
        },
        trained={key: mark.used for key, mark in trainings.items()},
    )


def _costs(days: Mapping[DayKey, int]) -> dict[str, Decimal]:
    sums: dict[str, Decimal] = {}
    for (_, _, price), seconds in days.items():
        if price is not None:
            sums[price.currency] = sums.get(price.currency, Decimal()) + cost(price, seconds)
    return dict(sorted(sums.items()))


def _hours(account: MonthAccount, purpose: Purpose) -> str:
    seconds = sum(used for key, used in account.days.items() if key[1] == purpose)
    return hours(seconds)


def _written(price: Price | None) -> dict[str, Any]:
    if price is None:
        return {}
    return {"price_per_gpu_hour": price.per_gpu_hour, "currency": price.currency}


def _price(amount: str | None, currency: str | None) -> Price | None:
    if amount is None or currency is None:
        return None
    return Price(per_gpu_hour=amount, currency=currency)


def _day(text: str) -> int:
    return date.fromisoformat(text).toordinal() - EPOCH


def _seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def _text(time: int) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
