"""The notifications about jobs, if a sink is configured."""

from finetune_operator.kinds.context import Context
from finetune_operator.leader_election import LeaderElector
from finetune_operator.notifications.outbox import Outbox
from finetune_operator.notifications.sink import Sink
from finetune_operator.snapshot.store import ObjectStore


def outbox(context: Context, elector: LeaderElector, jobs: ObjectStore) -> Outbox | None:
    """Return the events that wait for the sink, None without a sink."""
    if not context.config.sink.url:
        return None
    sink = Sink(context.config.sink, ca_certificates=context.settings.ca_certificates)
    events = Outbox(sink.send, lambda: elector.inherited, jobs.own_keys)
    elector.note = events.note
    return events
