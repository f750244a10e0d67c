"""Settlement: charges the GPU time of pods to the days of a namespace, each second once. Pure.

A pod holds its GPUs from the moment it is assigned to a node until it ends, so its GPU time up to
any moment follows from three facts about it. Its mark records how much of that is charged, and a
settlement charges the difference. Whatever was computed but never written, written twice, or read
from an old cache therefore changes no total, and no total ever decreases.

A pod that vanished before its end was observed is charged for the time until its absence is
noticed. For a train pod, that is at most what is left of the reservation.

Times are seconds since 1970 (UTC), by the clock of the API server.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from finetune_api.v1alpha1.budgets.usage import Purpose
from finetune_api.v1alpha1.profile import Price
from finetune_operator.usage.months import Month, month_of
from finetune_operator.usage.values import ReservationRequest

DAY = 86_400
COMPACTED_AFTER = 7 * DAY
"""After its end, a mark is kept for longer than any cache can be out of date: a source that is
observed again after its mark is gone would be charged twice."""
MOST_MARKS = 3_000
"""Of more marks, the oldest of pods that no longer exist go earlier: etcd limits an object to 1.5
MiB, and a mark has up to 300 bytes."""
RESERVED_FOR = 60
"""Seconds for which a reservation waits for the attempt that it was made for: more than the
reconcile may take that records the attempt."""
OF_TRAINING, OF_SERVING = "train/", "serve/"
"""Beginnings of keys."""

DayKey = tuple[int, Purpose, Price | None]
"""Number of the day since 1970, purpose and price."""


@dataclass(frozen=True, kw_only=True)
class PodUse:
    """A pod with GPUs, as it is observed."""

    key: str
    """``serve/<pod uid>``, or the key of its training with ``/<pod uid>``."""
    job: str
    gpus: int
    start: int
    end: int | None
    """None while the pod holds its GPUs."""
    price: Price | None

    def used(self, until: int) -> int:
        """Return the GPU-seconds of the pod up to a time."""
        end = until if self.end is None else min(until, self.end)
        return self.gpus * max(0, end - self.start)


@dataclass(frozen=True, kw_only=True)
class Observation:
    """Everything about a namespace that a settlement depends on."""

    pods: tuple[PodUse, ...] = ()
    under_way: frozenset[str] = frozenset()
    """Keys of the trainings with an attempt that has not ended."""
    retained: frozenset[str] = frozenset()
    """Keys of all trainings in the ledgers of the jobs."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What is charged of a pod, or of all pods of a training."""

    job: str
    used: int
    at: int
    """Time up to which a pod is charged; when a training was reserved, or when it ended."""
    gpus: int = 0
    """Of a pod; 0 for a training."""
    cap: int | None = None
    """Reserved GPU-seconds of a training."""
    price: Price | None = None
    ended: bool = False
    estimated: bool = False

    @property
    def left(self) -> int | None:
        """Reserved GPU-seconds that are not charged; None if nothing limits them."""
        return None if self.cap is None else max(0, self.cap - self.used)


@dataclass(frozen=True, kw_only=True)
class MonthAccount:
    """The usage of a namespace in one month."""

    month: Month
    days: Mapping[DayKey, int] = field(default_factory=dict)
    """GPU-seconds."""
    marks: Mapping[str, Mark] = field(default_factory=dict)
    closed: bool = False


def settled(account: MonthAccount, observed: Observation, now: int) -> tuple[MonthAccount, ...]:
    """Return an account after a settlement, and those of the months that began since."""
    if account.closed:
        account = _opened(account)
    if now < account.month.start:
        # The clock was set back.
        return (account,)
    accounts = []
    while account.month < month_of(now):
        closing = _charged(account, observed, account.month.end, last=False)
        accounts.append(replace(closing, closed=True))
        account = _opened(accounts[-1])
    charged = _charged(account, observed, now, last=True)
    marks = _compacted(_with_ends(charged.marks, observed, now), observed, now)
    return (*accounts, replace(charged, marks=marks))


def reserved(account: MonthAccount, request: ReservationRequest, now: int) -> MonthAccount:
    """Return an account with a reservation; the price is fixed by the first one of a training."""
    before = account.marks.get(request.key) or Mark(job=request.job, used=0, at=now)
    mark = replace(
        before, cap=request.cap, price=before.price or request.price, ended=False, at=now
    )
    return replace(account, marks={**account.marks, request.key: mark})


def training_of(pod: str) -> str | None:
    """Return the key of the training to which a pod belongs by its key, None if it serves."""
    return pod.rsplit("/", 1)[0] if pod.startswith(OF_TRAINING) else None


def _opened(closed: MonthAccount) -> MonthAccount:
    """Return the account of the next month: marks and reservations move along."""
    return MonthAccount(month=closed.month.next, marks=closed.marks)


def _charged(
    account: MonthAccount, observed: Observation, until: int, *, last: bool
) -> MonthAccount:
    """Return an account with the usage of the pods up to a time in its month, or to its end.

    last: whether no later month follows, in which the pods that have vanished are charged, too.
    """
    days, marks = dict(account.days), dict(account.marks)
    for pod in observed.pods:
        if pod.start < until:
            _charge(days, marks, account.month, pod, until)
    present = {pod.key for pod in observed.pods}
    for key, mark in account.marks.items():
        if mark.gpus and not mark.ended and key not in present:
            _charge_vanished(days, marks, key, until, ended=last)
    return replace(account, days=days, marks=marks)


def _charge(
    days: dict[DayKey, int], marks: dict[str, Mark], month: Month, pod: PodUse, until: int
) -> None:
    """Charge what a pod has used and its mark lacks."""
    training = marks.get(training_of(pod.key) or "")
    before = marks.get(pod.key)
    if before is None:
        # What a pod used before the first recorded month is not charged.
        before = Mark(
            job=pod.job,
            used=pod.used(month.start),
            at=pod.start,
            price=pod.price if training is None else training.price,
        )
    used = before.used
    for day in range(max(pod.start, month.start) // DAY, (until - 1) // DAY + 1):
        upto = max(used, pod.used(min(until, (day + 1) * DAY)))
        _add(days, day, pod.key, before.price, upto - used)
        used = upto
    ended = pod.end is not None and pod.end <= until
    if ended and not used:
        # Observed again, it adds nothing either. A node may reject thousands of pods.
        marks.pop(pod.key, None)
        return
    marks[pod.key] = replace(
        before,
        used=used,
        at=max(before.at, until if pod.end is None else min(until, pod.end)),
        gpus=pod.gpus,
        ended=ended,
        estimated=before.estimated and used > pod.used(until),
    )
    _add_to_training(marks, pod.key, marks[pod.key], used - before.used, until)


def _charge_vanished(
    days: dict[DayKey, int], marks: dict[str, Mark], key: str, until: int, *, ended: bool
) -> None:
    """Charge a pod whose end nobody observed for the time since, up to its reservation."""
    mark, training = marks[key], marks.get(training_of(key) or "")
    limit = None if training is None else training.left
    seconds = max(0, until - mark.at) * mark.gpus
    seconds = seconds if limit is None else min(seconds, limit)
    left = seconds
    for day in range(mark.at // DAY, (until - 1) // DAY + 1):
        length = min(until, (day + 1) * DAY) - max(mark.at, day * DAY)
        share = min(left, length * mark.gpus)
        _add(days, day, key, mark.price, share)
        left -= share
    marks[key] = replace(
        mark, used=mark.used + seconds, at=max(mark.at, until), ended=ended, estimated=True
    )
    _add_to_training(marks, key, mark, seconds, until)


def _add(days: dict[DayKey, int], day: int, key: str, price: Price | None, seconds: int) -> None:
    if seconds > 0:
        purpose: Purpose = "training" if key.startswith(OF_TRAINING) else "serving"
        days[day, purpose, price] = days.get((day, purpose, price), 0) + seconds


def _add_to_training(marks: dict[str, Mark], key: str, pod: Mark, seconds: int, until: int) -> None:
    """Add GPU-seconds of a pod to those of its training, if it belongs to one."""
    if (training := training_of(key)) is None:
        return
    # A training that started before usage was recorded has no reservation yet.
    before = marks.get(training) or Mark(job=pod.job, used=0, at=until, price=pod.price)
    marks[training] = replace(before, used=before.used + seconds)


def _with_ends(marks: Mapping[str, Mark], observed: Observation, now: int) -> dict[str, Mark]:
    """Return marks in which the trainings have ended that are no longer under way.

    The pods of a deleted job continue if the deletion orphans their Job. Until they end, the
    reservation stays: otherwise another job could start for what they still use.
    """
    running = {training_of(pod.key) for pod in observed.pods if pod.end is None}
    held = observed.under_way | running
    return {
        key: mark if mark.gpus else _with_end(mark, now, ended=key not in held)
        for key, mark in marks.items()
    }


def _with_end(mark: Mark, now: int, *, ended: bool) -> Mark:
    """Return the mark of a training that has ended, or that still holds its reservation."""
    if mark.ended == ended or (ended and abs(now - mark.at) < RESERVED_FOR):
        return mark
    return replace(mark, ended=ended, at=now)


def _compacted(marks: Mapping[str, Mark], observed: Observation, now: int) -> dict[str, Mark]:
    """Return marks without the old ones of sources that nothing can report any more."""
    present = {pod.key for pod in observed.pods}
    alive = present | observed.retained
    alive |= {str(training_of(key)) for key, mark in marks.items() if mark.gpus}
    kept = {
        key: mark
        for key, mark in marks.items()
        if not mark.ended or key in alive or mark.at > now - COMPACTED_AFTER
    }
    over = len(kept) - MOST_MARKS
    if over > 0:
        gone = (key for key, mark in kept.items() if mark.gpus and mark.ended)
        for key in sorted(set(gone) - present, key=lambda key: kept[key].at)[:over]:
            del kept[key]
    return kept
