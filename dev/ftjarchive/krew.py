"""The manifest with which krew installs the archives as ``kubectl ftj``."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import yaml

from cluster import paths
from release.location import version_of_the_checkout

MANIFEST = "ftj.yaml"
ARCHIVE = re.compile(r"ftj-.+-(?P<os>[a-z]+)-(?P<arch>[a-z0-9]+)\.tar\.gz")
DESCRIPTION = """\
Check, plan and estimate FineTuneJobs, follow and explain them in a cluster, and ask the tuned
model. The operator must be installed in the cluster for the verbs on jobs.
"""


def write(folder: Path, url: str) -> Path:
    """Write the manifest of the archives in a folder. url: from where they are downloaded."""
    path = folder / MANIFEST
    path.write_text(yaml.safe_dump(manifest(folder, url), sort_keys=False), encoding="utf-8")
    return path


def manifest(folder: Path, url: str) -> dict[str, Any]:
    """Return the manifest of the archives in a folder."""
    archives = ((path, ARCHIVE.fullmatch(path.name)) for path in sorted(folder.glob("*.tar.gz")))
    return {
        "apiVersion": "krew.googlecontainertools.github.com/v1alpha2",
        "kind": "Plugin",
        "metadata": {"name": "ftj"},
        "spec": {
            "version": f"v{version_of_the_checkout(paths.REPO)}",
            "homepage": url,
            "shortDescription": "Work with FineTuneJobs",
            "description": DESCRIPTION,
            "platforms": [
                {
                    "selector": {"matchLabels": match.groupdict()},
                    "uri": f"{url.rstrip('/')}/{path.name}",
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                    "bin": "ftj/ftj",
                }
                for path, match in archives
                if match is not None
            ],
        },
    }
