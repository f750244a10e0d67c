"""The other files of a release: wheel, CRDs, JSON schemas, first job, checksums."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from chartdocs.schema import partial
from checks import environment
from finetune_api import API_VERSION
from finetune_api.crd.openapi import schema_of
from finetune_api.crd.resource import Resource
from finetune_api.crd.resources import RESOURCES

SUMS = "SHA256SUMS"
FIRST_JOB = "first-job.yaml"
ABOUT_FIRST_JOB = """\
# The first job of the documentation, and a ConfigMap with its rows. In the repository, these are
# the files examples/first-job.yaml (the job alone) and examples/velmora-facts.jsonl (the rows).
"""
PACKAGED = ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "crds", "operator", "trainer")
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info", "build")


def clear(folder: Path) -> None:
    """Create the empty folder of a release."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def write(root: Path, folder: Path) -> None:
    """Write the wheel, the CRDs, their schemas for catalogues, and the first job."""
    (folder / FIRST_JOB).write_text(first_job_file(root), encoding="utf-8")
    group, _, version = API_VERSION.partition("/")
    # The layout of the catalogues that kubeconform and editors read.
    schemas = folder / "schemas" / group
    schemas.mkdir(parents=True)
    for resource in RESOURCES:
        shutil.copy(root / "crds" / resource.file, folder / resource.file)
        schema = json.dumps(catalogue_schema(resource), indent=2) + "\n"
        (schemas / f"{resource.kind.lower()}_{version}.json").write_text(schema, encoding="utf-8")
    wheel(root, folder)


def catalogue_schema(resource: Resource) -> dict[str, object]:
    """Return the JSON schema of an object of our own kind."""
    spec = partial(schema_of(resource.spec)) | {"type": "object"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
        "properties": {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": resource.kind},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": {"type": "object"},
        },
    }


def first_job(root: Path) -> str:
    """Return the manifest of the first job with its rows, for readers without a clone."""
    examples = root / "examples"
    rows = (examples / "velmora-facts.jsonl").read_text(encoding="utf-8")
    job = (examples / FIRST_JOB).read_text(encoding="utf-8")
    return (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: velmora-facts}\ndata:\n"
        f"  rows.jsonl: |\n{textwrap.indent(rows, '    ')}---\n{job[job.index('apiVersion') :]}"
    )


def first_job_file(root: Path) -> str:
    """Return the file with the first job, which says how it differs from the file of this name."""
    return f"{ABOUT_FIRST_JOB}{first_job(root)}"


def write_sums(folder: Path) -> None:
    """Write the checksums of all files, in the format of sha256sum."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    lines = (
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n"
        for path in files
    )
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def wheel(root: Path, folder: Path) -> None:
    """Build the wheel from a copy, since setuptools writes into its source."""
    with tempfile.TemporaryDirectory() as temporary:
        for name in PACKAGED:
            source, copy = root / name, Path(temporary) / name
            if source.is_dir():
                shutil.copytree(source, copy, ignore=IGNORED)
            else:
                shutil.copy(source, copy)
        command = [environment.uv(), "build", "--wheel", "--no-build-isolation"]
        command += ["--python", sys.executable, "--out-dir", f"{temporary}/dist", temporary]
        subprocess.run(command, check=True, capture_output=True)
        for wheel in Path(temporary, "dist").glob("*.whl"):
            shutil.copy(wheel, folder)
