"""What the gate reports about each name."""

from types import SimpleNamespace
from typing import Any

from finetune_api.contracts.endpoint import LONGEST_MESSAGE, WantedName, WantedSet
from finetune_gate.failures import Failure
from finetune_gate.report import Report
from finetune_gate.swap import identity


def test_a_message_is_cut_so_that_the_report_of_all_names_can_be_read() -> None:
    name = WantedName(name="a", job="a", revision="1" * 64, adapter="2" * 64, path="jobs/a")
    failure = Failure(message="x" * 9999, attempts=frozenset({("a", 1)}))
    loaded = SimpleNamespace(adapters={}, failures={identity(name): failure}, free=1)
    rollout: Any = SimpleNamespace(
        self_test=None,
        base_is_exact=True,
        loaded=loaded,
        table=SimpleNamespace(routes={}, boot=None),
    )
    wanted: Any = SimpleNamespace(
        endpoint="e", refused=None, current=WantedSet(endpoint="e", sequence=1, names=(name,))
    )
    usage: Any = SimpleNamespace(of=lambda _: SimpleNamespace(requests=0, prompt=0, completion=0))
    (reported,) = Report(rollout, wanted, usage, max_adapters=1).status(None).names
    assert (reported.state, len(reported.message)) == ("Failed", LONGEST_MESSAGE)
