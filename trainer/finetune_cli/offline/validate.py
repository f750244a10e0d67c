"""``ftj validate``: checks manifests against schema and rules, without a cluster."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from finetune_api.contracts.exitcodes import ExitCode
from finetune_api.crd.resources import RESOURCES
from finetune_api.validation import findings, resource_of
from finetune_cli.errors import WrongCall
from finetune_cli.offline import job_file
from finetune_cli.options import Format, Output
from finetune_trainer.errors import InvalidSpec

SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True, kw_only=True)
class Checked:
    """An object of a file, or a file that cannot be read, and the errors that were found.

    kind, name: None for a file that cannot be read.
    """

    file: str
    kind: str | None
    name: str | None
    errors: tuple[str, ...]


def run(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH",
            show_default=False,
            help="file with one or more YAML documents, or folder; - for stdin. In a folder and "
            "its subfolders, the command reads the files with the extensions "
            f"{', '.join(SUFFIXES)}",
        ),
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option(
            "-f",
            "--file",
            metavar="PATH",
            help="another way to write the argument PATH; can be repeated",
        ),
    ] = None,
    output: Output = Format.TEXT,
) -> int:
    """Print a line for each valid object and for each error. Raises InvalidSpec without any."""
    given = [*(files or ()), *(file or ())]
    if not given:
        raise WrongCall("set at least one PATH, a YAML file or a folder (- for stdin)")
    checked = []
    for path in (path for argument in given for path in _files(argument)):
        for result in _check(path):
            checked.append(result)
            if output is Format.TEXT:
                _print(result)
    errors = sum(len(result.errors) for result in checked)
    if output is Format.JSON:
        objects = [asdict(result) for result in checked]
        print(json.dumps({"valid": not errors and bool(objects), "objects": objects}, indent=2))
    elif errors:
        print(f"{errors} error{'s' * (errors > 1)}", file=sys.stderr)
    if errors:
        return int(ExitCode.INVALID_SPEC)
    if not checked:
        named = ", ".join(map(str, given))
        *kinds, last = (resource.kind for resource in RESOURCES)
        raise InvalidSpec(
            f"{named} contains no {', '.join(kinds)} or {last}: name files or folders that "
            "contain one"
        )
    return 0


def _check(path: Path) -> Iterator[Checked]:
    try:
        documents = [*job_file.flat(job_file.load(path, job_file.StrictLoader))]
    except InvalidSpec as error:
        yield Checked(file=str(path), kind=None, name=None, errors=(str(error),))
        return
    for document in documents:
        if (resource := resource_of(document)) is not None:
            errors = tuple(map(str, findings(document)))
            yield Checked(file=str(path), kind=resource.kind, name=_name(document), errors=errors)


def _print(checked: Checked) -> None:
    if checked.name is None:
        print(*checked.errors, file=sys.stderr)
        return
    title = f"{checked.file}: {checked.kind} {checked.name}"
    for error in checked.errors:
        print(f"{title}: {error}", file=sys.stderr)
    if not checked.errors:
        print(f"{title} is valid")


def _files(given: Path) -> Iterator[Path]:
    if not given.is_dir():
        yield given
        return
    yield from (file for file in sorted(given.rglob("*")) if file.suffix in SUFFIXES)


def _name(document: dict[str, Any]) -> str:
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return str(name or "without a name")
