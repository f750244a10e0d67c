"""Every ``ftj`` command line in README and docs can be started as it is printed."""

import re
import shlex

import pytest
from tests.support.markdown import blocks

from cluster import paths
from finetune_cli import app
from finetune_cli.commands.table import COMMANDS

PAGES = [paths.REPO / "README.md", *sorted((paths.REPO / "docs").rglob("*.md"))]
COMMAND = re.compile(r"(?:^|\| )(?:\$ )?(?:kubectl )?ftj ([^|>#\n]*)", re.MULTILINE)


def command_lines() -> list[str]:
    found = []
    for page in PAGES:
        for block in blocks(page.read_text(encoding="utf-8"), "", "console"):
            joined = block.replace("\\\n", " ")
            found += [line for line in COMMAND.findall(joined) if "--help" not in line]
    return found


def test_documentation_shows_every_command() -> None:
    shown = {line.split()[0] for line in command_lines()}
    assert shown == set(COMMANDS)


@pytest.mark.parametrize("line", command_lines())
def test_command_line_is_accepted(line: str) -> None:
    words = shlex.split(line)
    app.load(COMMANDS[words[0]], "ftj").make_context(words[0], words[1:])


def test_documentation_starts_no_trainer_module() -> None:
    for page in PAGES:
        assert "python -m finetune_trainer" not in page.read_text(encoding="utf-8"), page
