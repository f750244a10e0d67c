"""``python3 dev/supplychain``: sign a released image, and attest its contents and its origin.

``--dry-run`` writes the provenance and prints the commands, without a network and without cosign.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

# The interpreter puts this folder itself on the path; its parent makes `supplychain` a package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from supplychain import provenance, signing  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="dev/supplychain", description=__doc__)
    parser.add_argument("image", help="reference with a digest, as the registry returned it")
    parser.add_argument("--dockerfile", required=True, help="Dockerfile of the image")
    parser.add_argument("--sbom", type=Path, required=True, help="SPDX file of the image")
    parser.add_argument("--source", required=True, help="URI of the repository")
    parser.add_argument("--builder", required=True, help="URI of the build platform")
    parser.add_argument(
        "--build-arg", action="append", default=[], metavar="NAME=VALUE", help="of the build"
    )
    parser.add_argument("--key", default="", help="key of cosign; omit it to sign without a key")
    parser.add_argument(
        "--no-transparency-log", action="store_true", help="do not publish the signatures"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the provenance")
    parser.add_argument("--dry-run", action="store_true", help="only print the commands")
    options = parser.parse_args()
    file = options.output / "provenance.json"
    try:
        steps = signing.commands(
            options.image,
            sbom=options.sbom,
            provenance=file,
            key=options.key,
            log=not options.no_transparency_log,
        )
    except ValueError as error:
        parser.error(str(error))
    if not options.sbom.is_file():
        parser.error(
            f"--sbom {options.sbom} does not exist: copy it from the image, below /usr/share/sbom"
        )
    if not options.dry_run and shutil.which("cosign") is None:
        parser.error("cosign is not on the PATH: install it, or use --dry-run")
    statement = provenance.predicate(
        ROOT,
        dockerfile=options.dockerfile,
        builder=options.builder,
        source=options.source,
        arguments=dict(argument.split("=", 1) for argument in options.build_arg),
    )
    options.output.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(statement, indent=1) + "\n", encoding="utf-8")
    for step in steps:
        print(shlex.join(step), flush=True)
        if not options.dry_run:
            subprocess.run(step, check=True)
    return 0


sys.exit(main())
