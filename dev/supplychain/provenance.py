"""The provenance of an image: a SLSA v1 predicate about its source and its build inputs.

``cosign attest`` wraps the predicate in an in-toto statement about the digest of the image.
"""

from __future__ import annotations

import hashlib
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

BUILD_TYPE = "https://finetune.dev/build/dockerfile/v1"
PREDICATE_TYPE = "slsaprovenance1"
"""Name of the predicate type in ``cosign attest --type``."""


def predicate(
    root: Path, *, dockerfile: str, builder: str, source: str, arguments: dict[str, str]
) -> dict[str, Any]:
    """Return the predicate for an image that was built from the checkout.

    builder: URI of the build platform. source: URI of the repository. arguments: build arguments,
    among them BASE_IMAGE. Raises CalledProcessError outside a repository.
    """
    commit = _git(root, "rev-parse", "HEAD")
    dependencies: list[dict[str, Any]] = [
        {"uri": f"git+{source}@{commit}", "digest": {"gitCommit": commit}}
    ]
    for file in sorted((root / "constraints").glob("*.txt")):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        dependencies.append({"uri": f"constraints/{file.name}", "digest": {"sha256": digest}})
    base, _, digest = arguments.get("BASE_IMAGE", "").partition("@sha256:")
    if digest:
        dependencies.append({"uri": f"oci://{base}", "digest": {"sha256": digest}})
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "source": source,
                "dockerfile": dockerfile,
                "arguments": arguments,
            },
            "internalParameters": {"uncommittedChanges": bool(_git(root, "status", "--porcelain"))},
            "resolvedDependencies": dependencies,
        },
        "runDetails": {
            "builder": {"id": builder},
            "metadata": {"finishedOn": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")},
        },
    }


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
