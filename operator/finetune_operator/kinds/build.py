"""Connects the parts of all our own kinds."""

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_operator.controller.running import RunningKind
from finetune_operator.kinds import budgets as budget_kind
from finetune_operator.kinds import endpoints as endpoint_kind
from finetune_operator.kinds import jobs as job_kind
from finetune_operator.kinds import notifications, usage
from finetune_operator.kinds import profiles as profile_kind
from finetune_operator.kinds.context import Context
from finetune_operator.leader_election import LeaderElector
from finetune_operator.snapshot.budgets.budgets import Budgets
from finetune_operator.snapshot.endpoints import Endpoints
from finetune_operator.snapshot.profiles import Profiles
from finetune_operator.snapshot.reflector import Owners, Reflector, reflectors
from finetune_operator.snapshot.watches import ENDPOINTS, JOBS, PROFILES


@dataclass(frozen=True, kw_only=True)
class Kinds:
    """The running kinds, and the objects that every job depends on."""

    running: Sequence[RunningKind]
    reflectors: Sequence[Reflector]
    """Of the objects that jobs and endpoints own."""
    profiles: Profiles
    budgets: Budgets

    async def list(self) -> None:
        """List what a job depends on, before the first one is reconciled. Raises OperatorError."""
        await self.profiles.list()
        await self.budgets.list()


def build(context: Context, elector: LeaderElector) -> Kinds:
    """Return the parts of all kinds, connected."""
    live = context.live(JOBS)
    profiles = Profiles(live=context.live(PROFILES))
    endpoints = Endpoints(live=context.live(ENDPOINTS))
    recorder = usage.recorder(context, live.store, endpoints.live.store)
    budgets = budget_kind.accounts(context, live.store, endpoints.live.store, recorder)
    outbox = notifications.outbox(context, elector, live.store)
    jobs = job_kind.running(context, live, profiles, budgets, endpoints.of, recorder, outbox)
    shared = endpoint_kind.running(context, endpoints.live, jobs.controller, budgets)
    owners = [Owners(store=of.store, notify=of.controller.notify) for of in (jobs, shared)]
    return Kinds(
        running=(
            jobs,
            profile_kind.running(context, profiles, jobs.controller),
            budget_kind.running(context, budgets, jobs.controller, shared.controller, recorder),
            shared,
        ),
        reflectors=reflectors(context.kube, owners, context.config.watch_namespaces),
        profiles=profiles,
        budgets=budgets,
    )
