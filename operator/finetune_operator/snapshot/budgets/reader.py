"""The snapshot of a FineTuneBudget itself."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from finetune_operator.budgets.balances import limits_serving
from finetune_operator.budgets.periods import containing
from finetune_operator.snapshot.budgets.budgets import UNRECORDED, Budgets
from finetune_operator.snapshot.live import LiveReader
from finetune_operator.types import NO_JOBS, BudgetSnapshot, Key, Plan


@dataclass(frozen=True, kw_only=True)
class BudgetReader:
    """Takes the snapshot of a budget from the store."""

    live: LiveReader
    budgets: Budgets

    async def read(
        self,
        key: Key,
        *,
        live: Set[str] = frozenset(),
        names: Iterable[tuple[str, str]] = (),
        created: Mapping[str, bool] = NO_JOBS,
    ) -> BudgetSnapshot | None:
        """Return the snapshot of a budget, None if it does not exist. Raises OperatorError."""
        await self.live.refresh(key, live)
        if self.budgets.surroundings.generation == 0:
            await self.budgets.surroundings.refresh()
        usage = None if self.budgets.usage is None else await self.budgets.usage()
        body, parsed = self.live.store.owner(key), self.budgets.parsed().get(key[1])
        if body is None or parsed is None:
            return None
        if parsed.spec is None or usage is None:
            return BudgetSnapshot(
                budget=body,
                problem=parsed.problem or UNRECORDED,
                unrecorded=parsed.problem is None,
            )
        period = containing(parsed.spec.period, usage.now)
        return BudgetSnapshot(
            budget=body,
            balance=self.budgets.balance(key[1], usage),
            namespaces=self.budgets.namespaces(parsed, period, usage),
            selects=self.budgets.selects_any(parsed),
            waiting=len(self.budgets.waiting.of(key[1])),
            serving_gpus=self.budgets.serving_gpus(key[1]) if limits_serving(parsed.spec) else 0,
        )

    async def complete(self, key: Key, plan: Plan) -> bool:
        """Read nothing more: a plan depends on the snapshot alone."""
        return False

    def wait(self, key: Key, snapshot: BudgetSnapshot, plan: Plan) -> float:
        """Return 0: no plan waits for information."""
        return 0.0

    def forget(self, key: Key) -> None:
        """Forget nothing: the store alone remembers budgets."""
