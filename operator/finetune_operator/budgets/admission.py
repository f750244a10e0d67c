"""Which jobs may start to train: the queue of the jobs that share budgets.

All budgets that select the namespace of a job apply. Jobs are admitted by priority, then by age. A
job that does not fit lets smaller ones overtake until the period ends in which it began to wait;
from then on, none behind it is admitted before it. A job that fits keeps its place, too: those
behind it get what it leaves. So no job waits for ever, unless it exceeds the whole budget, or jobs
of a higher priority keep coming.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from functools import cached_property

from finetune_api.v1alpha1.budgets.spec import BUDGET_KIND
from finetune_api.v1alpha1.profile import Price
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.budgets.amounts import (
    CENTS,
    NOTHING,
    SECONDS_PER_HOUR,
    Amount,
    bound,
    hours,
    money,
)
from finetune_operator.budgets.balances import Balance
from finetune_operator.usage.values import cost

MOST_RIVALS = 100
"""Jobs ahead of a job up to which its message has a date: each costs 10 microseconds per reconcile,
and so many jobs seldom use all that they reserve."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a job needs to train a revision."""

    namespace: str
    name: str
    uid: str
    revision: str
    """Digest of the revision."""
    gpu_seconds: int | None
    """Upper bound of what is still to be used; None if it is unknown."""
    trained: int = 0
    """GPU-seconds that earlier attempts have used: an approval is for the whole training."""
    price: Price | None = None
    priority: int = 0
    created: str = ""
    """Creation time of the job, as the API server writes it."""
    waiting_since: datetime | None = None
    budgets: frozenset[str] = frozenset()
    """Names of the budgets that select the namespace of the job."""

    @cached_property
    def rank(self) -> tuple[int, str, str, str]:
        """Position in the queue; the lowest is the first."""
        return -self.priority, self.created, self.namespace, self.name

    def amount(self, currency: str | None) -> Amount:
        """Return GPU time and cost in the currency of a budget."""
        return self._priced if self.has_price_in(currency) else self._unpriced

    def whole(self, currency: str | None) -> Amount:
        """Return the same for the whole training, with its earlier attempts."""
        if not self.trained:
            return self.amount(currency)
        return replace(self, gpu_seconds=self._seconds + self.trained, trained=0).amount(currency)

    def has_price_in(self, currency: str | None) -> bool:
        """Report whether the price is known, and in a currency."""
        return self.price is not None and self.price.currency == currency

    @property
    def _seconds(self) -> int:
        return self.gpu_seconds or 0

    # A request is compared with those of all jobs that wait.
    @cached_property
    def _priced(self) -> Amount:
        assert self.price is not None, "the caller has checked the currency"
        return Amount(gpu_seconds=self._seconds, cost=cost(self.price, self._seconds))

    @cached_property
    def _unpriced(self) -> Amount:
        return Amount(gpu_seconds=self._seconds)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a job may start to train, and if not, why."""

    reason: Reason | None = None
    """None if the job is admitted."""
    message: str = ""
    until: datetime | None = None
    """When the job would fit, as far as that is known."""

    @property
    def admitted(self) -> bool:
        """Whether the job may start."""
        return self.reason is None


ADMITTED = Verdict()


def decide(request: Request, balances: Mapping[str, Balance], others: Iterable[Request]) -> Verdict:
    """Return whether a job may start to train now.

    balances: of all budgets that the job shares with others, by name. others: the jobs that already
    wait; the job itself may be among them.
    """
    own = [balances[name] for name in sorted(request.budgets) if name in balances]
    for balance in own:
        if (verdict := _by_itself(request, balance)) is not None:
            return verdict
    ahead = sorted(
        (other for other in others if other.uid != request.uid and other.rank < request.rank),
        key=lambda other: other.rank,
    )
    left, blocked = dict(balances), dict[str, Request]()
    for other in (None, *ahead):
        if other is not None:
            _start(other, left, blocked)
        # Each job ahead leaves less, so the first obstacle stays.
        for balance in own:
            blocker = blocked.get(balance.name)
            if blocker is not None or not left[balance.name].fits(request.amount(balance.currency)):
                return _waits(request, balance, ahead, blocker)
    return ADMITTED


def _by_itself(request: Request, balance: Balance) -> Verdict | None:
    """Return why a job could not start even if the budget was unused, None if it could."""
    if request.gpu_seconds is None:
        return Verdict(
            reason=Reason.COST_UNKNOWN,
            message=f"{BUDGET_KIND} {balance.name} limits GPU time, but there is no estimate of "
            "the duration of training. Set spec.runPolicy.maxGpuSeconds to the most seconds of GPU "
            "time that the job may use.",
        )
    needs_price = balance.limit.cost is not None or balance.approval_above.cost is not None
    if needs_price and not request.has_price_in(balance.currency):
        price = request.price
        present = "no price" if price is None else f"a price in {price.currency}"
        return Verdict(
            reason=Reason.COST_UNKNOWN,
            message=f"{BUDGET_KIND} {balance.name} limits cost in {balance.currency}, but the job "
            f"has {present}. Set spec.profile to a profile with a price in {balance.currency}.",
        )
    amount = request.amount(balance.currency)
    if not balance.limit.holds(amount):
        return Verdict(
            reason=Reason.EXCEEDS_BUDGET,
            message=f"The job needs {_text(amount, balance)}, but {BUDGET_KIND} {balance.name} has "
            f"only {_limit(balance)} for each {balance.period.name.lower()}. Set a smaller "
            "spec.runPolicy.maxGpuSeconds, train on fewer rows or epochs, or ask your cluster "
            "administrator for a larger budget.",
        )
    whole = request.whole(balance.currency)
    if not balance.approval_above.holds(whole) and not _is_approved(request, whole, balance):
        return Verdict(
            reason=Reason.APPROVAL_NEEDED,
            message=f"The job needs {_text(whole, balance)}, for which {BUDGET_KIND} "
            f"{balance.name} requires an approval. Ask your cluster administrator to add to "
            f"spec.approvals: {{namespace: {request.namespace}, name: {request.name}, uid: "
            f"{request.uid}, revision: {request.revision}, {_bounds(request, whole, balance)}}}.",
        )
    return None


def _is_approved(request: Request, whole: Amount, balance: Balance) -> bool:
    """Report whether an entry approves a training."""
    identity = (request.namespace, request.name, request.uid, request.revision)
    return any(
        (approval.namespace, approval.name, approval.uid, approval.revision) == identity
        and (approval.max_cost is None or request.has_price_in(balance.currency))
        and bound(approval.max_gpu_hours, approval.max_cost).holds(whole)
        for approval in balance.approvals
    )


def _bounds(request: Request, whole: Amount, balance: Balance) -> str:
    """Return the bounds of an approval, as an entry has them. Rounding must not exclude the job."""
    time = (Decimal(whole.gpu_seconds) / SECONDS_PER_HOUR).quantize(CENTS, ROUND_CEILING)
    text = f"maxGpuHours: {time.normalize():f}"
    if request.has_price_in(balance.currency):
        text += f', maxCost: "{whole.cost.quantize(CENTS, ROUND_CEILING):f}"'
    return text


def _start(other: Request, balances: dict[str, Balance], blocked: dict[str, Request]) -> None:
    """Reserve for a job ahead if it can start, and else record the budgets that it blocks."""
    own = [balances[name] for name in other.budgets if name in balances]
    if not own or any(_by_itself(other, balance) is not None for balance in own):
        return
    held_up = any(balance.name in blocked for balance in own)
    if not held_up and all(balance.fits(other.amount(balance.currency)) for balance in own):
        for balance in own:
            balances[balance.name] = balance.with_job(other.amount(balance.currency))
        return
    for balance in own:
        since = other.waiting_since
        if since is not None and since < balance.period.start:
            blocked.setdefault(balance.name, other)


def _waits(
    request: Request, balance: Balance, ahead: Sequence[Request], blocker: Request | None
) -> Verdict:
    """Return the verdict about a job that fits into the budget, but not now.

    blocker: the job that may not be overtaken, if it is the cause.
    """
    amount = request.amount(balance.currency)
    rivals = [other for other in ahead if balance.name in other.budgets]
    if balance.max_running is not None and balance.running >= balance.max_running:
        return Verdict(
            reason=Reason.OVER_BUDGET,
            message=f"{BUDGET_KIND} {balance.name} lets {balance.max_running} jobs train at the "
            f"same time, and {balance.running} do. The job starts by itself when one of them ends.",
        )
    message = (
        f"The job needs {_text(amount, balance)}. {BUDGET_KIND} {balance.name} has "
        f"{_limit(balance)} for this {balance.period.name.lower()}: used "
        f"{_text(balance.used, balance)}, reserved {_text(balance.reserved, balance)}."
    )
    if blocker is not None:
        message += (
            f" FineTuneJob {blocker.name} in namespace {blocker.namespace} has waited since the "
            "period before and starts first."
        )
    elif rivals:
        message += f" Jobs that start before it: {len(rivals)}."
    until = _forecast(request, balance, rivals) if len(rivals) <= MOST_RIVALS else None
    when = "" if until is None else f", at the latest about {until:%Y-%m-%d %H:%M} UTC"
    return Verdict(
        reason=Reason.OVER_BUDGET,
        message=f"{message} The job starts by itself{when}.",
        until=until,
    )


def _forecast(request: Request, balance: Balance, rivals: Iterable[Request]) -> datetime:
    """Return the start of the first later period in which a job fits behind its rivals.

    At worst, the reservations are used in the next period, and each job uses all that it reserves.
    """
    period, committed = balance.period.next, balance.reserved
    for candidate in (*rivals, request):
        if candidate is not request and _by_itself(candidate, balance) is not None:
            continue
        amount = candidate.amount(balance.currency)
        after = committed + amount
        while not balance.limit.holds(after) and committed != NOTHING:
            # A reservation may be larger than the budget if the budget has shrunk.
            period, committed, after = period.next, NOTHING, amount
        committed = after
    return period.start


def _text(amount: Amount, balance: Balance) -> str:
    """Return an amount in the quantities that a budget has."""
    time = f"{hours(amount.gpu_seconds)} GPU-hours"
    if balance.currency is None:
        return time
    return f"{time} ({money(amount.cost)} {balance.currency})"


def _limit(balance: Balance) -> str:
    time, cost = balance.limit.gpu_seconds, balance.limit.cost
    texts = [] if time is None else [f"{hours(time)} GPU-hours"]
    texts += [] if cost is None else [f"{money(cost)} {balance.currency}"]
    return " and ".join(texts) or "no GPU time"
