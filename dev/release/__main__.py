"""``dev/release VERSION --registry REGISTRY``: package a release, and publish it.

The registry is the only variable part: images, chart and instructions name it. ``dist/VERSION`` has
all files of the release, with their checksums.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

# The interpreter puts this folder itself on the path; its parent makes `release` a package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)
sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "crds"))

from release import chart, files, images  # noqa: E402
from release.location import InvalidLocation, Location, version_of_the_checkout  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="dev/release", description=__doc__)
    parser.add_argument("version", help="version in pyproject.toml and in the chart, as 0.1.0")
    parser.add_argument(
        "--registry", required=True, help="registry with a path, as registry.example.com/team"
    )
    parser.add_argument("--engine", default="docker", choices=("docker", "podman"))
    parser.add_argument("--base-image", default="", help="base image of the images, with a digest")
    parser.add_argument("--source", default="", help="URI of the repository, for the provenance")
    parser.add_argument("--builder", default="", help="URI of the build platform")
    parser.add_argument("--key", default="", help="key of cosign; omit it to sign without a key")
    parser.add_argument(
        "--no-transparency-log", action="store_true", help="do not publish the signatures"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder of the releases")
    parser.add_argument(
        "--only",
        choices=("files", "chart"),
        help="files: write dist/VERSION only; chart: also push the chart, but no images",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="write the files, and print the other commands"
    )
    options = parser.parse_args()
    try:
        location = Location(registry=options.registry, version=options.version)
        if options.version != (present := version_of_the_checkout(ROOT)):
            raise InvalidLocation(
                f"this checkout has version {present}, not {options.version}: set version in "
                "pyproject.toml, and version and appVersion in Chart.yaml"
            )
    except InvalidLocation as error:
        parser.error(str(error))
    if options.no_transparency_log and not options.key:
        # The certificate of a signature without a key is valid for minutes; the log proves when
        # it was used.
        parser.error("--no-transparency-log requires --key")
    folder = options.output.resolve() / options.version

    def run(command: list[str], *, errors: int | None = None) -> str:
        """Run a command, except in a dry run; return its output. errors: as stderr of Popen."""
        print(shlex.join(command), flush=True)
        if options.dry_run:
            return ""
        output = subprocess.PIPE
        done = subprocess.run(
            command, cwd=ROOT, check=True, stdout=output, stderr=errors, text=True
        )
        return done.stdout

    settings = images.Settings(
        engine=options.engine,
        base_image=options.base_image,
        source=options.source,
        builder=options.builder,
        key=options.key,
        log=not options.no_transparency_log,
        dry_run=options.dry_run,
    )
    files.clear(folder)
    package = chart.package(ROOT, location, folder)
    files.write(ROOT, folder)
    if options.only is None:
        images.publish(ROOT, location, folder, settings, run)
    digest = ""
    if options.only != "files":
        # Helm prints the digest to the error output.
        digest = chart.digest(run(chart.push(package, location), errors=subprocess.STDOUT))
    files.write_sums(folder)
    if options.only is None:
        run(images.cosign("sign", settings, f"{chart.reference(location)}@{digest}"))
        bundle = f"--bundle={folder / files.SUMS}.sigstore.json"
        run(images.cosign("sign-blob", settings, bundle, str(folder / files.SUMS)))
    print(f"wrote {folder}")
    return 0


sys.exit(main())
