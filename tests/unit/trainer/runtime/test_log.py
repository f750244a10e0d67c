"""Lines of the pod's log."""

import pytest

from finetune_trainer.runtime.log import log


def test_a_line_keeps_its_columns_and_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    log("  base, 4 bits      0.47 GiB\nforged \x1b[2J line")
    time, _, line = capsys.readouterr().err.partition(" ")
    assert len(time) == len("12:00:00")
    assert line == "  base, 4 bits      0.47 GiB forged \\x1b[2J line\n"
