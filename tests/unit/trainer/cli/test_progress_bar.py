"""The bar of ``run``: what people see of a stage on a terminal, and nothing of it elsewhere."""

import io
import sys

import pytest

from finetune_trainer.cli import local_run
from finetune_trainer.runtime.progress import Progress


class Terminal(io.StringIO):
    def __init__(self, *, is_one: bool) -> None:
        super().__init__()
        self._is_one = is_one

    def isatty(self) -> bool:
        return self._is_one


def shown(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> str:
    """Return what three quarters of a training write to stderr."""
    for name, value in {"TERM": "xterm", "COLUMNS": "160", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    stderr = Terminal(is_one=terminal)
    monkeypatch.setattr(sys, "stderr", stderr)
    progress = Progress("train")
    with local_run._bar(progress):
        progress.set(global_step=3, max_steps=4, train_loss=0.5, tokens_per_second=1234)
        progress.ratio(0.75)
    return stderr.getvalue()


def test_a_bar_says_how_far_a_stage_is(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, terminal=True)
    for words in ("training", "75 %", "step 3/4  loss 0.5000  1,234 tok/s  0s left"):
        assert words in text


def test_a_log_holds_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, terminal=False) == ""
