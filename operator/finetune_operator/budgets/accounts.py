"""What the snapshot of a job knows about its budgets."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from finetune_operator.budgets.admission import Request
from finetune_operator.budgets.balances import Balance


@dataclass(frozen=True, kw_only=True)
class Accounts:
    """The budgets that select the namespace of a job, and the jobs that wait for them."""

    own: frozenset[str]
    """Names of the budgets that select the namespace of the job."""
    balances: Mapping[str, Balance] = field(default_factory=dict)
    """Also of the other budgets of the jobs that wait, by name."""
    waiting: tuple[Request, ...] = ()
    """Those that share a budget with the job, directly or through others, by rank."""
    priority: int = 0
    """Value of the PriorityClass of the job."""
    serving_gpus: int = 0
    """GPUs that the endpoint was granted (``Plan.serving_gpus``)."""
    problem: str | None = None
    """Why the balance of a budget is unknown; no job starts then."""

    @property
    def serving(self) -> tuple[Balance, ...]:
        """The balances of the budgets that limit the endpoint of the job."""
        balances = (self.balances[name] for name in sorted(self.own & self.balances.keys()))
        return tuple(balance for balance in balances if balance.serving is not None)

    @property
    def exhausted(self) -> Balance | None:
        """The first exhausted budget that stops running jobs, None if none does."""
        return next(
            (
                balance
                for name in sorted(self.own & self.balances.keys())
                if (balance := self.balances[name]).exhausted and balance.stops_training
            ),
            None,
        )
