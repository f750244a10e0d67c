"""The progress bar of the ``run`` command, shown on terminals only."""

import io
import re
import sys

import pytest

from finetune_cli.offline import run
from finetune_trainer.runtime.progress import Progress


class Terminal(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def shown(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> str:
    """Return the output on stderr of a training that is three quarters done."""
    for name, value in {"TERM": "xterm", "COLUMNS": "160", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    stderr = Terminal(terminal=terminal)
    monkeypatch.setattr(sys, "stderr", stderr)
    progress = Progress("train")
    with run._bar(progress):
        progress.set(global_step=3, max_steps=4, train_loss=0.5, tokens_per_second=1234)
        progress.ratio(0.75)
    return stderr.getvalue()


def test_bar_shows_step_loss_speed_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, terminal=True)
    for words in ("training", "75 %"):
        assert words in text
    # A third of the time that the bar has been open, which is short but not always below 1 s.
    assert re.search(r"step 3/4  loss 0\.5000  1,234 tok/s  \d+s left", text)


def test_no_bar_if_stderr_is_not_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, terminal=False) == ""
