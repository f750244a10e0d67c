"""``ftj validate``: checks manifests against schema and rules, without a cluster."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_api import KIND
from finetune_api.contracts.exitcodes import ExitCode
from finetune_api.validation import findings, is_job
from finetune_cli import job_file
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.runtime.signals import StopRequest

SUFFIXES = (".yaml", ".yml", ".json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "-f",
        "--file",
        type=Path,
        required=True,
        action="append",
        metavar="PATH",
        help="file with one or more YAML documents, or folder; - for stdin. In a folder and its "
        f"subfolders, the command reads the files with the extensions {', '.join(SUFFIXES)}. "
        "Repeat the option to check several files or folders",
    )


def run(options: argparse.Namespace, _: StopRequest) -> int:
    """Print a line for each valid job and for each error. Raises InvalidSpec without any job."""
    jobs = errors = 0
    for path in (file for given in options.file for file in _files(given)):
        try:
            documents = [*_flat(job_file.load(path, job_file.StrictLoader))]
        except InvalidSpec as error:
            print(error, file=sys.stderr)
            errors += 1
            continue
        for document in filter(is_job, documents):
            jobs += 1
            title = f"{path}: {KIND} {_name(document)}"
            found = findings(document)
            errors += len(found)
            for finding in found:
                print(f"{title}: {finding}", file=sys.stderr)
            if not found:
                print(f"{title} is valid")
    if errors:
        print(f"{errors} error{'s' * (errors > 1)}", file=sys.stderr)
        return int(ExitCode.INVALID_SPEC)
    if not jobs:
        given = ", ".join(map(str, options.file))
        raise InvalidSpec(f"{given} contains no {KIND}: correct -f")
    return 0


def _files(given: Path) -> Iterator[Path]:
    if not given.is_dir():
        yield given
        return
    yield from (file for file in sorted(given.rglob("*")) if file.suffix in SUFFIXES)


def _flat(documents: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the objects, also those in lists, which ``kubectl get -o yaml`` prints."""
    for document in documents:
        items = document.get("items")
        if str(document.get("kind")).endswith("List") and isinstance(items, list):
            yield from _flat([item for item in items if isinstance(item, dict)])
        else:
            yield document


def _name(document: dict[str, Any]) -> str:
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return str(name or "without a name")
