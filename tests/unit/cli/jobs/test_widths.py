"""Each command of the reference page, in narrow and wide terminals."""

import os
import shlex

import pytest

from clidocs import page
from finetune_cli import __main__ as ftj
from finetune_cli.commands.command import CLUSTER
from finetune_cli.commands.table import COMMANDS

VERBATIM = ("chat", "init", "logs", "rollback", "verify")
"""Answers, logs, manifests and statements are not wrapped: they are read by programs, or copied."""


@pytest.mark.parametrize("columns", [40, 120])
def test_the_outputs_fit_the_terminal(columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    with page.examples():
        os.environ["COLUMNS"] = str(columns)
        for commands in page.EXAMPLES.values():
            for command in commands:
                words = shlex.split(command)[1:]
                if words[0] == "init" or COMMANDS[words[0]].panel == CLUSTER:
                    # The client reads $KUBECONFIG once, when it is imported.
                    words += ["--kubeconfig", "kubeconfig"]
                ftj.main(words)
                said = capsys.readouterr()
                text = said.out + said.err
                assert "kubeconfig cannot be used" not in text
                assert "Traceback" not in text
                assert "\x1b" not in text
                if words[0] in VERBATIM:
                    continue
                assert text, command
                assert max(map(len, said.out.splitlines()), default=0) <= columns, command
