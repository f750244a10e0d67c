"""Write the bill of materials of this image, in SPDX 2.3: its Python and Debian packages.

The Dockerfiles copy and run this file at the end of a build, so it needs only the standard library.
It lists what is installed, not what should be installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

DPKG_STATUS = Path("/var/lib/dpkg/status")
ENVIRONMENTS = ("opt/*/lib/python3*/site-packages", "usr/local/lib/python3*/site-packages")
"""Where images have Python packages: the environment of the program, that of the installer, and the
packages of the base image."""
UNKNOWN = "NOASSERTION"


def document(name: str, version: str, packages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the SPDX document of an image. packages: of ``python`` and ``debian``."""
    root = {
        **_package("image", name, version, ""),
        "SPDXID": "SPDXRef-image",
        "primaryPackagePurpose": "CONTAINER",
        "externalRefs": [],
    }
    digest = hashlib.sha256(json.dumps([version, packages]).encode()).hexdigest()
    contains = [
        {
            "spdxElementId": root["SPDXID"],
            "relationshipType": "CONTAINS",
            "relatedSpdxElement": package["SPDXID"],
        }
        for package in packages
    ]
    describes = {
        "spdxElementId": "SPDXRef-DOCUMENT",
        "relationshipType": "DESCRIBES",
        "relatedSpdxElement": root["SPDXID"],
    }
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"https://finetune.dev/spdx/{name}-{version}-{digest[:16]}",
        "creationInfo": {"created": _now(), "creators": ["Tool: finetune-operator-sbom"]},
        "packages": [root, *packages],
        "relationships": [describes, *contains],
    }


def python(root: Path = Path("/")) -> list[dict[str, Any]]:
    """Return the distributions that this interpreter can import, and those below ``root``."""
    folders = [str(folder) for pattern in ENVIRONMENTS for folder in sorted(root.glob(pattern))]
    packages: dict[tuple[str, str], dict[str, Any]] = {}
    for distribution in (*metadata.distributions(), *metadata.distributions(path=folders)):
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        url = f"pkg:pypi/{name}@{distribution.version}"
        package = _package("python", f"{name}-{distribution.version}", distribution.version, url)
        packages[name, distribution.version] = package | {
            "name": name,
            "licenseDeclared": _license(distribution),
        }
    return [packages[key] for key in sorted(packages)]


def _license(distribution: metadata.Distribution) -> str:
    """Return the license expression, which is valid in SPDX; older fields contain any text."""
    expressions = distribution.metadata.get_all("License-Expression")
    return expressions[0] if expressions else UNKNOWN


def debian(status: Path = DPKG_STATUS) -> list[dict[str, Any]]:
    """Return the installed Debian packages; none on another distribution."""
    if not status.exists():
        return []
    packages = []
    for fields in _paragraphs(status.read_text(encoding="utf-8")):
        if fields.get("Status") != "install ok installed":
            continue
        name, version, architecture = (
            fields[key] for key in ("Package", "Version", "Architecture")
        )
        url = f"pkg:deb/debian/{name}@{version.replace('+', '%2B')}?arch={architecture}"
        packages.append(_package("debian", f"{name}-{architecture}", version, url) | {"name": name})
    return packages


def _paragraphs(text: str) -> Iterator[dict[str, str]]:
    for paragraph in text.split("\n\n"):
        lines = (line.partition(": ") for line in paragraph.splitlines() if line[:1] != " ")
        fields = {key: value for key, _, value in lines}
        if "Package" in fields:
            yield fields


def _package(kind: str, name: str, version: str, url: str) -> dict[str, Any]:
    identifier = re.sub(r"[^A-Za-z0-9.-]", "-", f"{kind}-{name}")
    return {
        "SPDXID": f"SPDXRef-{identifier}",
        "name": name,
        "versionInfo": version,
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": False,
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": UNKNOWN,
        "copyrightText": UNKNOWN,
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": url,
            }
        ],
    }


def _now() -> str:
    """Return the time of the build; SOURCE_DATE_EPOCH makes it reproducible."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    # The base image may have a Python without datetime.UTC.
    zone = timezone.utc  # noqa: UP017
    moment = datetime.now(zone) if epoch is None else datetime.fromtimestamp(int(epoch), zone)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="sbom", description=__doc__)
    parser.add_argument("--name", required=True, help="name of the image")
    parser.add_argument("--version", required=True, help="version of the image")
    parser.add_argument("--output", type=Path, required=True, help="path of the JSON file")
    options = parser.parse_args()
    sbom = document(options.name, options.version, [*python(), *debian()])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(sbom, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
