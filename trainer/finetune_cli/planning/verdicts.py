"""Whether a job fits its GPU, what its training costs, and whether limits and budgets allow it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_api.base import Values
from finetune_api.contracts import cost as costs
from finetune_api.contracts.cost import Range
from finetune_api.defaulting import Resolved
from finetune_api.layering import value_at
from finetune_api.policy.check import violations
from finetune_api.policy.limits import narrower
from finetune_api.v1alpha1.data.statistics import Data as Statistics
from finetune_api.v1alpha1.profile import PROFILE_KIND, Price
from finetune_api.v1alpha1.spec import FineTuneJobSpec
from finetune_cli.offline.job_file import CHART_CARD, SpecFile
from finetune_cli.planning.state import Object, State, group, spec_of
from finetune_trainer.devices import cards
from finetune_trainer.errors import TrainerError
from finetune_trainer.estimate.suggestions import PRODUCT_LABEL

SECONDS_PER_HOUR = 3600


class Answer(StrEnum):
    """Whether something is allowed or possible."""

    YES = "yes"
    NO = "no"
    WAITS = "waits"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """An answer, with its reason."""

    answer: Answer
    text: str


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user adds about the GPU and the rows. ``offline``: nothing is downloaded."""

    model: Path | None = None
    card: str | None = None
    rows: int | None = None
    tokens: int | None = None
    price: tuple[str, str] | None = None
    offline: bool = False


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Whether a job fits, and the GPU time of its training, None if it is unknown.

    missing: what the user can set so that the time is known; empty if nothing is missing.
    """

    verdict: Verdict
    seconds: Range | None = None
    missing: str = ""


def fit(
    file: SpecFile,
    options: Options,
    state: State,
    profile: Object | None,
    statistics: Statistics | None,
    price: Price | None,
) -> Fit:
    """Return the estimate of a job. statistics: those of the same rows, None without any."""
    spec = file.resolved.spec
    card = _card(spec, options, state, profile)
    if options.offline and options.model is None:
        return Fit(verdict=unknown("config.json of the base model is not read"))
    # Its module is that of a command, whose libraries an offline plan in a pod does not have.
    from finetune_cli.offline import estimate

    rows = options.rows or (statistics and statistics.rows) or None
    tokens = options.tokens or (statistics and statistics.train_tokens) or None
    longest = statistics.longest_row if statistics is not None else None
    data = estimate.data_of(file, rows=rows, tokens=tokens, longest=longest)
    try:
        estimated = estimate.of(file, model=options.model, card=card, data=data)
    except TrainerError as error:
        return Fit(verdict=unknown(str(error)))
    except ModuleNotFoundError as error:
        needed = f"reading config.json needs the package {error.name}: install the extra cli"
        return Fit(verdict=unknown(needed))
    seconds, missing = None, _missing(rows, tokens, card)
    if estimated.estimate.seconds is not None:
        limit = limit_of(spec, price)
        seconds, missing = costs.expected(round(estimated.estimate.seconds), limit), ""
    if estimated.refusal is not None:
        verdict = Verdict(answer=Answer.NO, text=str(estimated.refusal))
    elif cards.find(card) is None:
        verdict = unknown(f"GPU {card} is not in the GPU table")
    else:
        verdict = Verdict(answer=Answer.YES, text=f"fits {card}")
    return Fit(verdict=verdict, seconds=seconds, missing=missing)


def limit_of(spec: FineTuneJobSpec, price: Price | None) -> int | None:
    """Return the GPU-seconds at which training is stopped; None if nothing limits it."""
    policy = spec.run_policy
    limits = [policy.max_gpu_seconds]
    if policy.max_cost is not None and price is not None:
        limits.append(costs.affordable(price.per_gpu_hour, policy.max_cost))
    return min((limit for limit in limits if limit is not None), default=None)


def policy(resolved: Resolved, state: State, written: Values) -> Verdict:
    """Return whether the limits of the chart and of the profiles allow a job.

    written: its spec. Without the settings of the chart, only a value in it certainly violates a
    limit of a profile.
    """
    spec, listed, settings = resolved.spec, resolved.listed, state.settings
    violated = () if settings is None else violations(spec, settings.policy, listed=listed)
    for profile in state.limiting(spec.profile):
        name = str(group(profile, "metadata").get("name"))
        try:
            limits = narrower(group(spec_of(profile), "limits"))
        except ValidationError:
            return unknown(f"the limits of {PROFILE_KIND} {name} are not valid")
        violated += violations(spec, limits, listed=listed, profile=name)
    if settings is None:
        violated = tuple(
            violation for violation in violated if value_at(written, violation.field) is not None
        )
    if violated:
        return Verdict(answer=Answer.NO, text=" ".join(violation.message for violation in violated))
    if settings is None:
        return unknown("the limits of the chart cannot be read")
    if newer := settings.newer_limits:
        return unknown(
            f"limits of a later version are not checked ({', '.join(newer)}): install ftj in the "
            "version of the operator"
        )
    if state.profiles is None:
        return Verdict(
            answer=Answer.YES,
            text="allowed by the limits of the chart; those of profiles cannot be read",
        )
    return Verdict(answer=Answer.YES, text="allowed by all limits")


def budget(
    state: State, namespace: str, seconds: Range | None, limit: int | None, price: Price | None
) -> Verdict:
    """Return whether the budgets of a namespace have room for a training.

    seconds: its expected GPU time; limit: GPU-seconds at which it is stopped.
    """
    if state.budgets is None:
        return unknown("no FineTuneBudget can be read")
    own = state.budgets_of(namespace)
    if not own:
        return Verdict(answer=Answer.YES, text=f"no budget applies to namespace {namespace}")
    needed = limit if limit is not None else (seconds and seconds.high)
    if needed is None:
        return unknown("the GPU time of training is unknown: set runPolicy.maxGpuSeconds")
    answers = [answer for own_budget in own for answer in _by_budget(own_budget, needed, price)]
    return min(answers, key=lambda answer: _WORST.index(answer.answer))


_WORST = (Answer.NO, Answer.UNKNOWN, Answer.WAITS, Answer.YES)


def _by_budget(own_budget: Object, seconds: int, price: Price | None) -> Iterator[Verdict]:
    """Yield the answer of a budget for GPU time and for cost."""
    name, spec = group(own_budget, "metadata").get("name"), spec_of(own_budget)
    training = group(group(own_budget, "status"), "training")
    above = group(spec, "approvalAbove")
    amounts = [("gpuHours", Decimal(seconds) / SECONDS_PER_HOUR, "GPU-hours")]
    if price is not None and price.currency == spec.get("currency"):
        amounts.append(("cost", costs.cost(price.per_gpu_hour, seconds), price.currency))
    for field, needed, unit in amounts:
        account = group(training, field)
        limit, left = (_amount(account.get(key)) for key in ("limit", "remaining"))
        threshold = _amount(above.get(field))
        reserves = f"reserves {needed:.2f} {unit}"
        if limit is not None and needed > limit:
            text = f"{reserves}, but FineTuneBudget {name} has {limit} in a period"
            yield Verdict(answer=Answer.NO, text=text)
        elif left is not None and needed > left:
            text = f"{reserves}, and FineTuneBudget {name} has {left} left: training waits"
            yield Verdict(answer=Answer.WAITS, text=text)
        elif threshold is not None and needed > threshold:
            text = f"{reserves}, for which FineTuneBudget {name} requires an approval"
            yield Verdict(answer=Answer.WAITS, text=text)
        else:
            remains = "" if left is None else f" of {left} that are left"
            yield Verdict(answer=Answer.YES, text=f"{reserves}{remains} in FineTuneBudget {name}")


def _amount(value: Any) -> Decimal | None:
    try:
        return None if value is None else Decimal(str(value))
    except InvalidOperation:
        return None


def _card(spec: FineTuneJobSpec, options: Options, state: State, profile: Object | None) -> str:
    """Return the GPU model of a job: the first one that the chart prefers, if nothing names one."""
    offered: Sequence[Any] = state.settings.gpu_products if state.settings else ()
    return str(
        options.card
        or (spec.placement.node_selector or {}).get(PRODUCT_LABEL)
        or (None if profile is None else spec_of(profile).get("card"))
        or next(iter(offered), CHART_CARD)
    )


def _missing(rows: int | None, tokens: int | None, card: str) -> str:
    """Return the options with which the time of the training is known."""
    facts = (
        ("--rows", rows),
        ("--tokens", tokens),
        ("--card, a GPU of the table", cards.find(card)),
    )
    return " and ".join(option for option, fact in facts if fact is None)


def unknown(why: str) -> Verdict:
    """Return the verdict about something that cannot be decided."""
    return Verdict(answer=Answer.UNKNOWN, text=why)
