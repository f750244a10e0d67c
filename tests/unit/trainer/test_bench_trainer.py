"""Results that `bench trainer` computes from the times of training steps."""

import os
import signal
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import pytest
from bench.trainer import checkpoints, overhead
from bench.training import runs
from bench.training.pairs import SAVE_STEPS, Pair
from bench.training.runs import Run
from bench.training.workload import Prepared

STEPS = range(1, 12)
ROWS = {step: 1.0 + step % 3 for step in STEPS}
"""Duration of the steps in seconds; steps with longer rows take longer."""


def run(seconds: Callable[[int], float], *, losses: float = 9.0) -> Run:
    return Run(
        imported=5.0,
        loaded=6.0,
        steps=tuple(accumulate((seconds(step) for step in STEPS), initial=6.0))[1:],
        losses=tuple(losses for _ in STEPS),
        peak=None,
        log=(),
    )


def plain(step: int) -> float:
    return ROWS[step]


def ours(step: int) -> float:
    """Steps that are one percent slower, and checkpoints of 3 s."""
    saved = step > 1 and (step - 1) % SAVE_STEPS == 0
    return 1.01 * ROWS[step] + (3.0 if saved else 0.0)


def test_steps_after_a_checkpoint_are_excluded() -> None:
    pair = Pair(ours=[run(ours)], plain=[run(plain)])
    measured = pair.seconds()
    assert measured[0] / measured[1] == pytest.approx(1.01)
    assert pair.stall() == pytest.approx(3.0)
    assert pair.rounds() == [pytest.approx(0.01)]


def test_background_load_in_one_round_does_not_count() -> None:
    busy = run(lambda step: 5 * plain(step) if step in (3, 4, 5) else plain(step))
    pair = Pair(ours=[run(ours)] * 3, plain=[run(plain), busy, run(plain)])
    measured = pair.seconds()
    assert measured[0] / measured[1] == pytest.approx(1.01)
    assert pair.overhead() == pytest.approx(0.01)


def test_load_that_affects_both_does_not_count() -> None:
    def busy(step: int) -> float:
        return 1 + step % 4

    pair = Pair(
        ours=[run(lambda step: busy(step) * ours(step))],
        plain=[run(lambda step: busy(step) * plain(step))],
    )
    assert pair.overhead() == pytest.approx(0.01)


def test_missed_goal_is_reported() -> None:
    slow = run(lambda step: 1.05 * plain(step))
    rounded = {"trl": Pair(ours=[slow], plain=[run(lambda step: 0.5 * plain(step))])}
    missed = overhead({"trl": Pair(ours=[slow], plain=[run(plain)])}, rounded)
    assert "+5.0% (goal 2%, missed)" in missed
    assert "(+110.0%)" in missed
    met = overhead({"trl": Pair(ours=[run(ours)], plain=[run(plain)])}, rounded)
    assert "+1.0% (goal 2%, met)" in met


def test_share_of_checkpoints() -> None:
    """A checkpoint after every tenth step of a short run, and every hundredth of a long one."""
    steady = run(lambda step: 1.0 + (3.0 if step in (6, 11) else 0.0))
    pair = Pair(ours=[steady], plain=[run(lambda step: 1.0)], checkpoint_bytes=5_000_000)
    assert f"| 5 MB       | 3.00    | {3 / 13:.1%} " in checkpoints({"trl": pair})
    assert f"| {3 / 103:.1%} " in checkpoints({"trl": pair})


def test_different_work_is_refused() -> None:
    pair = Pair(ours=[run(plain, losses=9.0)], plain=[run(plain, losses=9.1)])
    with pytest.raises(RuntimeError, match=r"their losses at step 1 are 9\.0 and 9\.1"):
        pair.refuse_other_work()
    Pair(ours=[run(plain, losses=9.0)], plain=[run(plain, losses=9.001)]).refuse_other_work()


CHILD = """
import os, sys, time
print(os.getpid(), sys.argv[1])
print("loading the base model\\ntrainable parameters")
for step in range(1, 1000):
    time.sleep(0.01)
    print(f"step {step}/1000 loss {step}.5", flush=True)
"""


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """A volume for trainings that only print lines."""
    child = tmp_path / "child.py"
    child.write_text(CHILD)
    monkeypatch.setattr(runs, "CHILD", child)
    return Prepared(config=tmp_path / "job.json", work=tmp_path)


def test_a_training_is_stopped_after_its_step(prepared: Prepared) -> None:
    training = runs.Training("ours", prepared)
    try:
        training.advance(until=2)
        pid = int(training.result().log[0].split()[0])
        stopped = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        assert stopped is not None
        assert stopped.si_status == signal.SIGSTOP
        training.advance(until=3)
    finally:
        training.kill()
    assert training.result().losses == (1.5, 2.5, 3.5)


def test_trainings_take_turns_after_each_step(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[int] = []
    advance = runs.Training.advance

    def recorded(training: runs.Training, until: int | None = None) -> None:
        turns.append(id(training))
        advance(training, until)

    monkeypatch.setattr(runs.Training, "advance", recorded)
    found = runs.in_turns(["ours", "trl"], prepared, steps=3)
    assert turns == turns[:2] * 3
    assert turns[0] != turns[1]
    assert [each.log[0].split()[1] for each in found.values()] == ["ours", "trl"]
    assert [each.losses for each in found.values()] == [(1.5, 2.5, 3.5)] * 2


def test_a_training_that_ends_too_early_failed(prepared: Prepared) -> None:
    with pytest.raises(runs.Failed):
        runs.in_turns(["ours"], prepared, steps=1001)
