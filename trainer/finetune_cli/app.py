"""The verbs as a typer application. A verb is imported when it is called, or when its help is read.

The help lists all verbs from ``commands`` alone.
"""

import importlib
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import Abort, TyperException
from typer.main import get_command

from finetune_api.safety.printable import printable
from finetune_cli import version as package
from finetune_cli.commands.command import Command
from finetune_cli.commands.table import COMMANDS

DESCRIPTION = "Work with FineTuneJobs in a terminal."
EPILOG = "To read about a command, run: {program} COMMAND --help"
INTERRUPTED = 130
HELP = {"help_option_names": ["-h", "--help"]}


class Verb(TyperCommand):
    """A command that masks credentials, handles SIGTERM, and reports each error in one line."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command and return its exit code."""
        from finetune_cli import running

        def call(stop: Any) -> Any:
            ctx.obj = stop
            return super(Verb, self).invoke(ctx)

        return running.run(ctx.command_path, call)


class Verbs(TyperGroup):
    """The verbs; ``commands`` has only their names and summaries."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command of a name, with its arguments and options. Raises a usage error."""
        name, listed, rest = super().resolve_command(ctx, args)
        if listed is None:
            return name, None, rest
        return name, load(COMMANDS[str(listed.name)], program=str(ctx.info_name)), rest


def run(arguments: list[str], program: str) -> int:
    """Run one command and return its exit code. Raises OSError if the output cannot be written."""
    try:
        code: int = group(program).main(arguments, prog_name=program, standalone_mode=False)
    except TyperException as error:
        _print_usage(error, program)
        return error.exit_code
    except Abort:
        return INTERRUPTED
    return code


def group(program: str) -> Verbs:
    """Return the group of all verbs, without their modules."""
    app = typer.Typer(
        cls=Verbs,
        help=DESCRIPTION,
        epilog=EPILOG.format(program=program),
        rich_markup_mode="rich",
        context_settings=HELP,
    )
    app.callback()(_root)
    verbs = get_command(app)
    assert isinstance(verbs, Verbs)
    for command in COMMANDS.values():
        verbs.add_command(
            TyperCommand(command.name, help=command.summary, rich_help_panel=command.panel)
        )
    return verbs


def load(command: Command, program: str) -> Any:
    """Return a verb with its arguments and options."""
    module = importlib.import_module(f"finetune_cli.{command.module}")
    app = typer.Typer(add_completion=False, rich_markup_mode="rich", context_settings=HELP)
    app.command(
        command.name,
        cls=Verb,
        help=_verbatim(command.description),
        epilog=_verbatim(f"Example: {program} {command.name} {command.example}".rstrip()),
    )(module.run)
    return get_command(app)


def _verbatim(text: str) -> str:
    """Return a text that the help prints as it is: brackets are no markup."""
    return text.replace("[", "\\[")


def _root(
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    if version:
        package.show()
        raise typer.Exit


def _print_usage(error: TyperException, program: str) -> None:
    """Print a wrong call and its fix to stderr."""
    context = getattr(error, "ctx", None)
    if context is not None:
        print(context.get_usage(), file=sys.stderr)
    print(f"Error: {printable(error.format_message())}", file=sys.stderr)
    path = program if context is None else context.command_path
    print(f"For help, run: {path} --help", file=sys.stderr)
