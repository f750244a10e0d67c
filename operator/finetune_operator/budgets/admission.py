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
from decimal import Decimal

from finetune_api.v1alpha1.budget import BUDGET_KIND
from finetune_api.v1alpha1.profile import Price
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.budgets.amounts import NOTHING, Amount, hours, money
from finetune_operator.budgets.balances import Balance
from finetune_operator.usage.values import cost


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a job needs to train a revision."""

    namespace: str
    name: str
    uid: str
    revision: str
    """Digest of the revision."""
    gpu_seconds: int | None
    """Upper bound; None if it is unknown."""
    price: Price | None = None
    priority: int = 0
    created: str = ""
    """Creation time of the job, as the API server writes it."""
    waiting_since: datetime | None = None
    budgets: frozenset[str] = frozenset()
    """Names of the budgets that select the namespace of the job."""

    @property
    def rank(self) -> tuple[int, str, str, str]:
        """Position in the queue; the lowest is the first."""
        return -self.priority, self.created, self.namespace, self.name

    def amount(self, currency: str | None) -> Amount:
        """Return GPU time and cost in the currency of a budget."""
        seconds = self.gpu_seconds or 0
        if self.price is None or self.price.currency != currency:
            return Amount(gpu_seconds=seconds)
        return Amount(gpu_seconds=seconds, cost=cost(self.price, seconds))


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

    balances: of all budgets, by name. others: the jobs that already wait; the job itself may be
    among them.
    """
    own = [balances[name] for name in sorted(request.budgets) if name in balances]
    for balance in own:
        if (verdict := _by_itself(request, balance)) is not None:
            return verdict
    ahead = sorted(
        (other for other in others if other.uid != request.uid and other.rank < request.rank),
        key=lambda other: other.rank,
    )
    left, blocked = _after(ahead, dict(balances))
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
    price = request.price
    if needs_price and (price is None or price.currency != balance.currency):
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
    if not balance.approval_above.holds(amount) and not _is_approved(request, amount, balance):
        return Verdict(
            reason=Reason.APPROVAL_NEEDED,
            message=f"The job needs {_text(amount, balance)}, for which {BUDGET_KIND} "
            f"{balance.name} requires an approval. Ask your cluster administrator to add to "
            f"spec.approvals: {{namespace: {request.namespace}, name: {request.name}, uid: "
            f"{request.uid}, revision: {request.revision}}}.",
        )
    return None


def _is_approved(request: Request, amount: Amount, balance: Balance) -> bool:
    identity = (request.namespace, request.name, request.uid, request.revision)
    priced = request.price is not None and request.price.currency == balance.currency
    return any(
        (each.namespace, each.name, each.uid, each.revision) == identity
        and (each.max_cost is None or (priced and amount.cost <= Decimal(each.max_cost)))
        for each in balance.approvals
    )


def _after(
    ahead: Sequence[Request], balances: dict[str, Balance]
) -> tuple[dict[str, Balance], dict[str, Request]]:
    """Return the balances after the jobs ahead have started, and the jobs that block budgets."""
    blocked: dict[str, Request] = {}
    for other in ahead:
        own = [balances[name] for name in other.budgets if name in balances]
        if not own or any(_by_itself(other, balance) is not None for balance in own):
            continue
        held_up = any(balance.name in blocked for balance in own)
        if not held_up and all(balance.fits(other.amount(balance.currency)) for balance in own):
            for balance in own:
                balances[balance.name] = balance.with_job(other.amount(balance.currency))
            continue
        for balance in own:
            since = other.waiting_since
            if since is not None and since < balance.period.start:
                blocked.setdefault(balance.name, other)
    return balances, blocked


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
    until = _forecast(request, balance, rivals)
    return Verdict(
        reason=Reason.OVER_BUDGET,
        message=f"{message} The job starts by itself, at the latest about {until:%Y-%m-%d %H:%M} "
        "UTC.",
        until=until,
    )


def _forecast(request: Request, balance: Balance, rivals: Iterable[Request]) -> datetime:
    """Return the start of the first later period in which a job fits behind its rivals.

    At worst, the reservations are used in the next period, and each job uses all that it reserves.
    """
    period = balance.period.next
    kept = replace(balance, used=NOTHING, max_running=None)
    for each in (*rivals, request):
        if each is not request and _by_itself(each, balance) is not None:
            continue
        amount = each.amount(balance.currency)
        while not kept.fits(amount) and kept.committed != NOTHING:
            # A reservation may be larger than the budget if the budget has shrunk.
            period, kept = period.next, replace(kept, reserved=NOTHING)
        kept = kept.with_job(amount)
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
