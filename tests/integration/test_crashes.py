"""A crash after every write of a whole life.

One life runs without a crash, and its writes are counted. Then as many lives start as there were
writes, in namespaces of their own, under one operator. In the n-th of them nothing of the
operator passes any more once its n-th write has been answered: to that namespace the operator is
dead. When all are at their points, the process is killed with SIGKILL, and the next one has to make
of each what the first one made. Events are not counted: nothing is decided by them.
"""

import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.integration.controlplane import ControlPlane
from tests.integration.course import Course, fate_in
from tests.integration.fleet import Fleet
from tests.integration.namespace import Namespace
from tests.integration.operatorprocess import CONFIG, OperatorProcess, operator
from tests.integration.relay import relay
from tests.integration.writes import Writes

pytestmark = pytest.mark.usefixtures("controller_manager")


def test_a_crash_after_every_write_changes_nothing(
    control_plane: ControlPlane, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    courses: dict[str, Course] = {}

    fleet = Fleet(plane=control_plane, fate=lambda pod: fate_in(courses, pod))
    writes = Writes()

    def begin(number: int) -> Course:
        place = Namespace(control_plane, control_plane.namespace(f"crash-{number}"))
        courses[place.name] = Course(fleet, place)
        fleet.begin(place.name, courses[place.name].life())
        return courses[place.name]

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
        fleet.until("a life without a crash", lambda: not fleet.alive)
        points = writes.count["crash-0"]
        for number in range(1, points + 1):
            writes.points[f"crash-{number}"] = number
            begin(number)
        fleet.until(
            "every life is at its crash, or over",
            lambda: fleet.alive <= writes.dead,
            seconds=300,
        )
        reached = len(writes.dead)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        writes.points.clear()
        writes.dead.clear()
        second = start()
        fleet.until("every life is over", lambda: not fleet.alive, seconds=300)
        assert second.metric("controller_runtime_reconcile_errors_total") == 0

    with capsys.disabled():
        sys.stdout.write(f"\n    crash points: {reached} of {points} writes, each survived\n")
    # Many lives at once see several changes in one look, and write less often than one alone.
    assert reached >= points * 3 // 4
    made = writes.jobs_of("crash-0")
    assert len([name for name in made if "-train-" in name]) == 3
    for number in range(1, points + 1):
        name = f"crash-{number}"
        assert writes.jobs_of(name) == made, f"after write {number}"
        assert courses[name].objects == reference.objects, f"after write {number}"
