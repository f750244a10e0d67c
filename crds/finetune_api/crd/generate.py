"""``python -m finetune_api.crd.generate [--check]``: write the CRD and the reference pages.

With ``--check`` nothing is written: the command prints the stale files and exits with code 1.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import yaml

from finetune_api.contracts.result import ARTIFACTS
from finetune_api.crd.definition import custom_resource_definition
from finetune_api.crd.reference import api_page, exit_codes_page, reasons_page
from finetune_api.crd.resource import Resource
from finetune_api.crd.resources import RESOURCES
from finetune_api.policy import admission, profile_admission

ROOT = Path(__file__).resolve().parents[3]
HEADER = "# Generated from crds/finetune_api by `make generate`; do not edit.\n"


def crd_file(resource: Resource) -> str:
    """Return the CRD of a resource as YAML."""
    definition = custom_resource_definition(resource)
    return HEADER + yaml.safe_dump(definition, sort_keys=False, width=100, allow_unicode=True)


def policy_file() -> str:
    """Return what the chart's policies take from the API as YAML.

    These are the variables and validations of the policies for specs and for profiles, the
    condition of the latter, and the stages that run as Jobs, in whose pods no user may execute
    commands.
    """
    parts = {
        "jobStages": list(ARTIFACTS),
        "variables": admission.variables(),
        "validations": admission.validations(),
        "profileConditions": profile_admission.conditions(),
        "profileVariables": profile_admission.variables(),
        "profileValidations": profile_admission.validations(),
    }
    return HEADER + yaml.safe_dump(parts, sort_keys=False, width=100, allow_unicode=True)


FILES: Mapping[str, Callable[[], str]] = {
    **{
        f"{folder}/{resource.file}": partial(crd_file, resource)
        for resource in RESOURCES
        for folder in ("crds", "charts/finetune-operator/files")
    },
    "charts/finetune-operator/files/policy.yaml": policy_file,
    **{f"docs/reference/{resource.page}": partial(api_page, resource) for resource in RESOURCES},
    "docs/reference/exit-codes.md": exit_codes_page,
    "docs/reference/reasons.md": reasons_page,
}
"""Generated files by their path in the repository, and the functions that return their text."""


def stale_files(root: Path) -> dict[Path, str]:
    """Return path and new text of the files below ``root`` that are missing or out of date."""
    texts = {root / name: render() for name, render in FILES.items()}
    return {
        path: text
        for path, text in texts.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Write the generated files, or check them; return the exit code."""
    parser = argparse.ArgumentParser(prog="finetune_api.crd.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, compare only")
    check = parser.parse_args(arguments).check
    stale = stale_files(root)
    for path, text in stale.items():
        name = path.relative_to(root)
        if check:
            print(f"{name} is stale: run `make generate`")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
