"""The content of the local hub, created on this machine.

* ``datasets/demo/debian-packages``: Alpaca rows with questions about Debian packages; the answers
  are the short descriptions in the package lists of apt, so that every row can be verified.
* ``models/demo/gated``: requires the token :data:`TOKEN`.
* ``models/demo/two-layers``: the first layers of the demo model, for tests in which nothing is
  learned. Its answers are nonsense, and cost a third of the time.
* ``datasets/demo/broken-row``: one row is not JSON.

:mod:`hub.convert` creates the model ``demo/smollm2-135m-instruct`` in the trainer image.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

PACKAGE_NAMES = Path(__file__).resolve().parent / "packages.txt"
ROWS = 60
TOKEN = "hf_demo"
BROKEN_ROW = 7
LAYERS = 2
WEIGHTS, CONFIG = "model.safetensors", "config.json"


class ContentError(Exception):
    """The content cannot be created on this machine."""


def short_descriptions(names: list[str]) -> dict[str, str]:
    """Return the short description of each package in ``names`` that apt lists."""
    done = subprocess.run(
        ["apt-cache", "show", "--no-all-versions", *names],
        env={"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    descriptions: dict[str, str] = {}
    for paragraph in done.stdout.split("\n\n"):
        name = re.search(r"^Package: (\S+)$", paragraph, re.MULTILINE)
        text = re.search(r"^Description(?:-en)?: (\S.*)$", paragraph, re.MULTILINE)
        if name and text:
            descriptions.setdefault(name.group(1), text.group(1).strip())
    return descriptions


@functools.cache
def instruction_rows() -> list[dict[str, str]]:
    """Return Alpaca rows for the first :data:`ROWS` packages that apt lists.

    Raises ContentError if apt lists fewer.
    """
    names = PACKAGE_NAMES.read_text().split()
    descriptions = short_descriptions(names)
    listed = [name for name in names if name in descriptions][:ROWS]
    if len(listed) < ROWS:
        raise ContentError(
            f"apt lists {len(listed)} packages of {PACKAGE_NAMES.name}, but {ROWS} are required"
        )
    return [
        {
            "instruction": f"What is the Debian package {name}?",
            "input": "",
            "output": descriptions[name],
        }
        for name in listed
    ]


def _write_lines(file: Path, lines: list[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


def write_small_content(root: Path) -> None:
    """Write all content except the models below ``root``. Raises ContentError."""
    rows = [json.dumps(row) for row in instruction_rows()]
    _write_lines(root / "datasets/demo/debian-packages/train.jsonl", rows)
    broken = rows[:12]
    broken[BROKEN_ROW - 1] = broken[BROKEN_ROW - 1][:-1]
    _write_lines(root / "datasets/demo/broken-row/train.jsonl", broken)
    gated = root / "models/demo/gated"
    _write_lines(gated / ".hub.json", [json.dumps({"gated": True, "tokens": [TOKEN]})])


def write_shallow_model(source: Path, target: Path) -> None:
    """Write the repository of a model with the first :data:`LAYERS` layers of another one.

    source: a Llama model with one file of weights. target: a folder that does not exist.
    """
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.name not in (WEIGHTS, CONFIG) and not file.name.startswith("."):
            shutil.copyfile(file, target / file.name)
    config = json.loads((source / CONFIG).read_text()) | {"num_hidden_layers": LAYERS}
    (target / CONFIG).write_text(json.dumps(config, indent=2))
    with (source / WEIGHTS).open("rb") as before, (target / WEIGHTS).open("wb") as after:
        (length,) = struct.unpack("<Q", before.read(8))
        entries: dict[str, Any] = json.loads(before.read(length))
        kept = {name: entry for name, entry in entries.items() if _is_kept(name)}
        header, end = {"__metadata__": {"format": "pt"}}, 0
        for name, entry in kept.items():
            begin, end = end, end + _size(entry)
            header[name] = entry | {"data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        after.write(struct.pack("<Q", len(text)) + text)
        for entry in kept.values():
            before.seek(8 + length + entry["data_offsets"][0])
            after.write(before.read(_size(entry)))


def _is_kept(name: str) -> bool:
    layer = re.match(r"model\.layers\.(\d+)\.", name)
    return name != "__metadata__" and (layer is None or int(layer[1]) < LAYERS)


def _size(entry: dict[str, Any]) -> int:
    begin, end = entry["data_offsets"]
    return int(end - begin)
