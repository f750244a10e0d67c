"""Each command of the reference page, in narrow and wide terminals."""

import os
import shlex

import pytest

from clidocs import page
from finetune_cli import __main__ as ftj


@pytest.mark.parametrize("columns", [40, 120])
def test_the_outputs_fit_the_terminal(columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    with page.environment():
        os.environ["COLUMNS"] = str(columns)
        for commands in page.EXAMPLES.values():
            for command in commands:
                ftj.main(shlex.split(command)[1:])
                said = capsys.readouterr()
                text = said.out + said.err
                assert "Traceback" not in text
                assert "\x1b" not in text
                if "rollback" in command or "init" in command:
                    # A manifest is not wrapped: it is copied.
                    continue
                assert text, command
                assert max(map(len, said.out.splitlines()), default=0) <= columns, command
