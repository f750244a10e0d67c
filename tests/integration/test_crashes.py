"""A crash after every write in the lifecycle of a job; ``make test`` crashes after every eighth.

The lifecycle runs once without a crash, and its writes are counted. Then one operator runs the same
lifecycle in a namespace for each of these writes. In the namespace of the n-th write, the relay
cuts all requests after the response to this write. When all namespaces have reached their crash
points, the process is killed with SIGKILL. The next process must produce the same objects in every
namespace as the run without a crash. Events are not counted, because the operator makes no decision
from them.
"""

import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.integration.lifecycle import Lifecycle, pod_status
from tests.integration.relay import relay
from tests.integration.write_counter import WriteCounter
from tests.support.api_server.controlplane import ControlPlane
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.operatorprocess import CONFIG, OperatorProcess, operator
from tests.support.api_server.scenarios import ScenarioRunner
from tests.support.variants import variants

pytestmark = pytest.mark.usefixtures("controller_manager")


@pytest.mark.parametrize("every", variants([8, 1], kept=[8]))
def test_a_crash_after_any_write_does_not_change_the_result(
    control_plane: ControlPlane, tmp_path: Path, capsys: pytest.CaptureFixture[str], every: int
) -> None:
    lifecycles: dict[str, Lifecycle] = {}

    runner = ScenarioRunner(plane=control_plane, pod_status=lambda pod: pod_status(lifecycles, pod))
    writes = WriteCounter()

    def name(number: int) -> str:
        return f"crash-{every}-{number}"

    def begin(number: int) -> Lifecycle:
        place = Namespace(control_plane, control_plane.namespace(name(number)))
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
        points = range(1, writes.count[name(0)] + 1, every)
        for number in points:
            writes.crash_points[name(number)] = number
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
        sys.stdout.write(f"\n    crash points: {reached} of {len(points)} writes, each survived\n")
    # Under load, one reconcile can observe several changes, so a lifecycle can have fewer writes.
    assert reached >= len(points) * 3 // 4
    made = writes.jobs_of(name(0))
    assert len([job for job in made if "-train-" in job]) == 3
    for number in points:
        assert writes.jobs_of(name(number)) == made, f"after write {number}"
        assert lifecycles[name(number)].objects == reference.objects, f"after write {number}"
