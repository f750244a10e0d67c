"""Run the circle of a published model as the target of a server."""

import json
from dataclasses import asdict
from pathlib import Path

from families import circle
from families.published import MODELS


def run_to(name: str, file: str) -> None:
    """Run the circle of a model, and write its result to a file."""
    Path(file).write_text(json.dumps(asdict(circle.run(MODELS[name]))))
