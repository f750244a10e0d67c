"""A crash after every write in the lifecycle of a job.

The lifecycle runs once without a crash, and its writes are counted. Then one operator runs the same
lifecycle in as many namespaces as there were writes. In the n-th namespace, the relay cuts all
requests after the response to the n-th write. When all namespaces have reached their crash points,
the process is killed with SIGKILL. The next process must produce the same objects in every
namespace as the run without a crash. Events are not counted, because the operator makes no decision
from them.
"""

import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.integration.controlplane import ControlPlane
from tests.integration.lifecycle import Lifecycle, pod_status
from tests.integration.namespace import Namespace
from tests.integration.operatorprocess import CONFIG, OperatorProcess, operator
from tests.integration.relay import relay
from tests.integration.scenarios import ScenarioRunner
from tests.integration.write_counter import WriteCounter

pytestmark = pytest.mark.usefixtures("controller_manager")


def test_a_crash_after_any_write_does_not_change_the_result(
    control_plane: ControlPlane, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lifecycles: dict[str, Lifecycle] = {}

    runner = ScenarioRunner(plane=control_plane, pod_status=lambda pod: pod_status(lifecycles, pod))
    writes = WriteCounter()

    def begin(number: int) -> Lifecycle:
        place = Namespace(control_plane, control_plane.namespace(f"crash-{number}"))
        lifecycles[place.name] = Lifecycle(runner, place)
        runner.begin(place.name, lifecycles[place.name].scenario())
        return lifecycles[place.name]

    config = {**CONFIG, "leaseName": "crashes", "logLevel": "info"}
    with ExitStack() as stack:
        between = stack.enter_context(relay(control_plane, tmp_path))
        between.decide, between.after = writes.decide, writes.after

        def start() -> OperatorProcess:
            return stack.enter_context(
                operator(control_plane, tmp_path, config, kubeconfig=between.kubeconfig)
            )

        first = start()
        reference = begin(0)
        runner.until("the lifecycle without a crash has ended", lambda: not runner.unfinished)
        points = writes.count["crash-0"]
        for number in range(1, points + 1):
            writes.crash_points[f"crash-{number}"] = number
            begin(number)
        runner.until(
            "every lifecycle has crashed or ended",
            lambda: runner.unfinished <= writes.crashed,
        )
        reached = len(writes.crashed)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        writes.crash_points.clear()
        writes.crashed.clear()
        second = start()
        runner.until("every lifecycle has ended", lambda: not runner.unfinished)
        assert second.failures() == []

    with capsys.disabled():
        sys.stdout.write(f"\n    crash points: {reached} of {points} writes, each survived\n")
    # Under load, one reconcile can observe several changes, so a lifecycle can have fewer writes.
    assert reached >= points * 3 // 4
    made = writes.jobs_of("crash-0")
    assert len([name for name in made if "-train-" in name]) == 3
    for number in range(1, points + 1):
        name = f"crash-{number}"
        assert writes.jobs_of(name) == made, f"after write {number}"
        assert lifecycles[name].objects == reference.objects, f"after write {number}"
