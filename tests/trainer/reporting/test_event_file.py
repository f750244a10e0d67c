"""The TensorBoard event file of a training that is interrupted."""

from pathlib import Path

from finetune_trainer.reporting import event_file
from finetune_trainer.reporting.event_file import EventFile
from finetune_trainer.reporting.loss_history import LossHistory


def records(path: Path) -> list[tuple[str, int, float]]:
    """Return the records of an event file without their times."""
    events = list(event_file.read(path))
    assert [each.file_version for each in events] == ["brain.Event:2"] + [""] * (len(events) - 1)
    return [
        (value.tag, each.step, round(value.simple_value, 4))
        for each in events[1:]
        for value in each.summary.value
    ]


def logged(path: Path, history: LossHistory, *steps: int) -> EventFile:
    """Return the file of an attempt that logged some steps and evaluated the even ones."""
    found = EventFile(path, history)
    for step in steps:
        history.add(step, loss=step / 10, gradNorm=None)
        if step % 2 == 0:
            history.add(step, evalLoss=step / 100)
    found.flush()
    return found


def test_resumed_attempt_repeats_no_step_and_keeps_the_times(tmp_path: Path) -> None:
    path = tmp_path / "tensorboard" / event_file.FILE
    killed = logged(path, LossHistory(), 1, 2, 3)
    first = list(event_file.read(path))
    # A kill cuts off the last record.
    path.write_bytes(path.read_bytes() + path.read_bytes()[-20:-1])
    # The checkpoint of step 2 is older than the evaluation of that step.
    history = LossHistory({"loss": [(1, 0.1), (2, 0.2)]})
    logged(path, history, 3, 4).close()
    assert records(path) == [
        ("train/loss", 1, 0.1),
        ("train/loss", 2, 0.2),
        ("train/loss", 3, 0.3),
        ("train/loss", 4, 0.4),
        ("eval/loss", 4, 0.04),
    ]
    kept = list(event_file.read(path))[1:3]
    assert [each.wall_time for each in kept] == [each.wall_time for each in first[1:3]]
    assert [each.name for each in path.parent.iterdir()] == [event_file.FILE]
    killed.close()


def test_lost_or_damaged_file_is_written_again_from_the_history(tmp_path: Path) -> None:
    path = tmp_path / event_file.FILE
    history = LossHistory({"loss": [(1, 0.1), (2, 0.2)], "evalLoss": [(1, 0.5)]})
    expected = [("train/loss", 1, 0.1), ("eval/loss", 1, 0.5), ("train/loss", 2, 0.2)]
    EventFile(path, history).close()
    assert sorted(records(path)) == sorted(expected)
    path.write_bytes(b"\xff" * 100)
    EventFile(path, history).close()
    assert sorted(records(path)) == sorted(expected)
