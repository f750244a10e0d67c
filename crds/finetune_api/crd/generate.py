"""``python -m finetune_api.crd.generate [--check]``: write the CRD and the reference pages.

With ``--check`` nothing is written: the command prints the stale files and exits with code 1.
"""

import argparse
import sys
from pathlib import Path

import yaml

from finetune_api.crd.definition import custom_resource_definition

ROOT = Path(__file__).resolve().parents[3]
TARGETS = (
    ROOT / "crds" / "finetune.dev_finetunejobs.yaml",
    ROOT / "charts" / "finetune-operator" / "files" / "finetune.dev_finetunejobs.yaml",
)
HEADER = "# Generated from crds/finetune_api by `make generate`; do not edit.\n"


def rendered() -> str:
    """Return the CRD as YAML."""
    text = yaml.safe_dump(
        custom_resource_definition(), sort_keys=False, width=100, allow_unicode=True
    )
    return HEADER + text


def main(arguments: list[str] | None = None) -> int:
    """Write the generated files, or check them; return the exit code."""
    parser = argparse.ArgumentParser(prog="finetune_api.crd.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, compare only")
    check = parser.parse_args(arguments).check
    text = rendered()
    stale = [
        path for path in TARGETS if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path in stale:
        if check:
            print(f"{path.relative_to(ROOT)} is stale: run `make generate`")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
