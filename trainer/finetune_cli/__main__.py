"""The entry point of ``ftj``, and of ``kubectl ftj`` (the program ``kubectl-ftj``)."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from finetune_api.safety import redaction
from finetune_cli.errors import CommandFailed
from finetune_trainer.errors import Stopped, TrainerError
from finetune_trainer.runtime import environment
from finetune_trainer.runtime.signals import StopRequest

PACKAGE = "finetune-operator"
DESCRIPTION = "Work with FineTuneJobs in a terminal."
EPILOG = "To read about a command, run: {program} COMMAND --help"
OWN_PACKAGES = ("finetune_api", "finetune_cli", "finetune_trainer")
EXTRA_OF_MODULE = dict.fromkeys(("huggingface_hub", "cryptography", "botocore"), "cli")
"""Modules of the extra ``cli``; every other module is in the extra ``trainer``."""
INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command, with its texts for users."""

    name: str
    module: str
    summary: str
    description: str
    example: str


COMMANDS = {
    each.name: each
    for each in (
        Command(
            name="validate",
            module="validate",
            summary="check manifests without a cluster",
            description="Check FineTuneJobs against the schema and the validation rules, without "
            "a cluster. The command lists every error with its field and value. Objects of other "
            "kinds are ignored. The exit code is 64 if a FineTuneJob is invalid.",
            example="-f finetune.yaml -f jobs/",
        ),
        Command(
            name="estimate",
            module="estimate",
            summary="estimate GPU memory, disk space and time",
            description="Estimate GPU memory, disk space and time of a FineTuneJob, without a GPU. "
            "The command downloads only config.json of the base model. For a gated model, set "
            "HF_TOKEN. The exit code is 82 if the job does not fit its GPU.",
            example="-f finetune.yaml --rows 52000 --tokens 6000000",
        ),
        Command(
            name="import-axolotl",
            module="import_axolotl",
            summary="convert an Axolotl configuration",
            description="Convert an Axolotl configuration to a FineTuneJob. The command prints the "
            "manifest to stdout. To stderr, it prints one line per setting that it does not copy "
            "exactly, and an estimate of the memory.",
            example="qlora.yml > finetune.yaml",
        ),
        Command(
            name="run",
            module="run",
            summary="prepare, train and merge on this machine",
            description="Prepare, train and merge a FineTuneJob on this machine, without a "
            "cluster. Ctrl-C saves a checkpoint; the same command resumes from this checkpoint. "
            "For gated models and datasets, set HF_TOKEN.",
            example="-f finetune.yaml --work ~/runs/support",
        ),
        Command(
            name="copy",
            module="copy",
            summary="copy a model out of the cluster",
            description="Copy the merged model or the adapter of a FineTuneJob to a local folder. "
            "The command uses kubectl with your rights. It creates a pod that mounts the volume "
            "of the job read-only. The command copies the files from this pod, and then deletes "
            "the pod. It checks every file against the digests that training recorded. If the "
            "connection is interrupted, run the command again; complete files are not copied "
            "again.",
            example="support ./support-model",
        ),
        Command(
            name="verify",
            module="verify",
            summary="check the signature and the files of a published model",
            description="Check a published model with the public key of the operator: the "
            "signature of the statement about it, the digest of each file, and that there are no "
            "other files. The command prints the statement, which says what the model was trained "
            "from and how it was tested. For a folder, it needs no network; files in a registry or "
            "a bucket are read without being stored. Exit codes: 10 no signed statement, 11 no "
            "valid signature of the key, 12 a changed file, 13 a missing file, 14 an additional "
            "file, 15 another base.",
            example="./support-model --key signing.pub --base org/name",
        ),
    )
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = next((COMMANDS[each] for each in given if each in COMMANDS), None)
    options = _parser(chosen).parse_args(given)
    # The token of the user is in the environment.
    redaction.install()
    stop = StopRequest()
    stop.install()
    environment.configure()
    try:
        code: int = _module(COMMANDS[options.command]).run(options, stop)
        sys.stdout.flush()
    except (TrainerError, Stopped) as ended:
        print(f"{ended.reason}: {ended}", file=sys.stderr)
        return int(ended.code)
    except CommandFailed as error:
        print(f"{_program()} {options.command}: {error}", file=sys.stderr)
        return int(error.code)
    except ModuleNotFoundError as error:
        missing = str(error.name).split(".")[0]
        if missing in OWN_PACKAGES:
            raise
        extra = EXTRA_OF_MODULE.get(missing, "trainer")
        print(
            f"{_program()} {options.command} needs the package {missing}, which is not installed: "
            f"run pip install '{PACKAGE}[{extra}]'",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of the output has closed it. Python flushes stdout once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception:
        if not stop.requested:
            raise
        # A library has turned the stop into an error of its own.
        print(f"{Stopped.reason}: {Stopped()}", file=sys.stderr)
        return int(Stopped.code)
    return code


def _parser(chosen: Command | None) -> argparse.ArgumentParser:
    """Return the parser of all commands, with the options of the chosen one only."""
    program = _program()
    root = argparse.ArgumentParser(
        prog=program, description=DESCRIPTION, epilog=EPILOG.format(program=program)
    )
    root.add_argument("--version", action="version", version=f"{PACKAGE} {_version()}")
    commands = root.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands"
    )
    for command in COMMANDS.values():
        parser = commands.add_parser(
            command.name,
            help=command.summary,
            description=command.description,
            epilog=f"Example: {program} {command.name} {command.example}",
        )
        if command is chosen:
            _module(command).add_arguments(parser)
    return root


def _module(command: Command) -> Any:
    return importlib.import_module(f"finetune_cli.{command.module}")


def _program() -> str:
    """Return the name with which users call this program."""
    return "kubectl ftj" if Path(sys.argv[0]).name == "kubectl-ftj" else "ftj"


def _version() -> str:
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
