"""JSON that a repository, a volume or a server controls."""

import json
from typing import Any


def parse(text: str | bytes) -> Any:
    """Return the value of a JSON text. Raise ValueError also if it is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
