"""Run in a pod: check the published folders on the volume of a job.

A folder is published if it contains manifest.json. Then every file in the manifest must exist with
its size and SHA-256. Result: published (folder: list of errors), and others (names of all other
entries at the top of the volume).
"""

import hashlib
import json
from pathlib import Path

WORK = Path("/work")


def _wrong(folder: Path) -> list[str]:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    wrong = [] if manifest["files"] else ["the manifest lists no file"]
    for entry in manifest["files"]:
        file = folder / entry["name"]
        if not file.is_file():
            wrong.append(f"{entry['name']} is missing")
        elif file.stat().st_size != entry["size"]:
            wrong.append(f"{entry['name']} has another size")
        elif hashlib.sha256(file.read_bytes()).hexdigest() != entry["sha256"]:
            wrong.append(f"{entry['name']} has another content")
    return wrong


def main() -> None:
    """Check all folders below the root of the volume."""
    published = {
        manifest.parent.relative_to(WORK).as_posix(): _wrong(manifest.parent)
        for manifest in sorted(WORK.rglob("manifest.json"))
    }
    others = sorted(entry.name for entry in WORK.iterdir() if entry.name not in published)
    print("RESULT " + json.dumps({"published": published, "others": others}))


main()
