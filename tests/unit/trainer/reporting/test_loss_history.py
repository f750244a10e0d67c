"""The loss history over resumes, and its plot."""

import math
from pathlib import Path

from matplotlib.image import imread

from finetune_trainer.reporting import plot
from finetune_trainer.reporting.loss_history import LossHistory


def falling(steps: int) -> LossHistory:
    curves = LossHistory()
    for step in range(1, steps + 1):
        noise = 0.2 * math.sin(step * 1.7)
        loss = 1 + 2 * math.exp(-step / 60) + noise * math.exp(-step / 80)
        curves.add(step, loss=loss, learningRate=2e-4 * (1 - step / steps), gradNorm=1 + noise)
        if step % 25 == 0:
            curves.add(step, evalLoss=1.1 + 2 * math.exp(-step / 60))
    return curves


def test_resumed_run_continues_the_history_of_its_checkpoint(tmp_path: Path) -> None:
    curves = falling(10)
    curves.save(tmp_path)
    resumed = LossHistory.load(tmp_path)
    assert resumed.series == curves.series
    resumed.add(8, loss=0.5)
    assert [step for step, _ in resumed["loss"]] == [*range(1, 8), 8]
    assert resumed["loss"][-1] == (8, 0.5)


def test_checkpoint_without_a_history_starts_one(tmp_path: Path) -> None:
    assert LossHistory.load(tmp_path)["loss"] == []


def test_equal_histories_give_equal_plots(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        plot.draw(falling(120), tmp_path / name, title="support")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_plot_shows_the_held_out_loss_if_there_are_held_out_rows(tmp_path: Path) -> None:
    accent = [int(plot.ACCENT[at : at + 2], 16) for at in (1, 3, 5)]
    shown = {}
    for steps in (24, 25):
        plot.draw(falling(steps), tmp_path / "a.png", title="support")
        pixels = (imread(tmp_path / "a.png")[..., :3] * 255).round().astype(int)
        shown[steps] = bool((pixels == accent).all(axis=-1).any())
    # The first evaluation is that of step 25.
    assert shown == {24: False, 25: True}


def test_history_of_one_step_is_plotted(tmp_path: Path) -> None:
    plot.draw(falling(1), tmp_path / "one.png", title="one")
    plot.draw(LossHistory(), tmp_path / "none.png", title="none")
    assert (tmp_path / "none.png").stat().st_size > 0
