"""Snapshot → plan. Pure: no I/O, no clock, no environment.

A job goes through its stages in order (``stages``); then its model is rolled out, while the stable
build continues to serve (``serving``). The ledger in ``status`` records what was
attempted and how it ended; the rest is read from the children. An operator that restarts or misses
an event therefore plans the same as one that does not.
"""

from dataclasses import replace
from datetime import datetime

from finetune_api.defaulting import InvalidSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.objects.index import index
from finetune_operator.reconcile import queues
from finetune_operator.reconcile.confirmation import confirmation
from finetune_operator.reconcile.reporting.report import report
from finetune_operator.reconcile.steps import steps
from finetune_operator.revisions.continued import continued
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.profiles import SelectedProfile, UnavailableProfile, select
from finetune_operator.revisions.sharing import endpoints as shared_endpoints
from finetune_operator.revisions.target import TargetRevision, resolve_target
from finetune_operator.revisions.versions import UnsupportedVersion
from finetune_operator.types import Plan, Snapshot

__all__ = ["confirmation", "plan", "report"]


def plan(snapshot: Snapshot, *, now: datetime) -> Plan:
    """Return the plan of a reconcile of a job.

    now: timezone-aware; it dates transitions and measures deadlines.
    """
    if "deletionTimestamp" in snapshot.job["metadata"]:
        # The garbage collector deletes what the job owns; creating anything now would undo that.
        return Plan(status=snapshot.job.get("status", {}))
    try:
        indexed = index(snapshot)
        ledger = Ledger.parse(indexed.previous.ledger, indexed.previous.ledger_version)
        profile = select(snapshot.job, snapshot.profiles, snapshot.settings)
        target = _target(snapshot, ledger, profile)
        target = replace(
            target,
            flavors=queues.flavors(snapshot.queues, target),
            hosts=tuple(limits.hosts for _, limits in profile.limits),
            endpoint=shared_endpoints.find(
                snapshot.job, target.resolved.spec, snapshot.endpoints, snapshot.settings
            ),
        )
        ledger = ledger.with_target(target.revision)
        if target.replaced is not None:
            ledger = ledger.with_frozen(target.revision, target.frozen)
        ledger = ledger.with_lora_rank(target.revision, target.frozen.lora_rank)
        return steps(indexed, target, ledger, profile, now)
    except UnavailableProfile as error:
        return report(snapshot, reason=error.reason, message=str(error), now=now)
    except InvalidSpec as error:
        return report(snapshot, reason=Reason.INVALID_SPEC, message=str(error), now=now)
    except UnsupportedVersion as error:
        return report(snapshot, reason=Reason.UNSUPPORTED_VERSION, message=str(error), now=now)


def _target(snapshot: Snapshot, ledger: Ledger, profile: SelectedProfile) -> TargetRevision:
    """Return the revision that the spec describes or, if it cannot start, the one that continues.

    Raises UnavailableProfile or InvalidSpec if no revision has started, and UnsupportedVersion.
    """
    try:
        return resolve_target(
            snapshot.job,
            ledger,
            profile.settings,
            profile.unavailable,
            profile.defaults,
            snapshot.parent,
        )
    except (UnavailableProfile, InvalidSpec) as error:
        target = continued(snapshot.job, ledger, profile.settings, error)
        if target is None:
            raise
        return target
