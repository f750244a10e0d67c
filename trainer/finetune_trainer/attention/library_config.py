"""config.json as an object of transformers."""

import copy
from collections.abc import Mapping
from typing import Any


def of(config: Mapping[str, Any]) -> Any:
    """Return a config.json, of a family that transformers knows, with the defaults of its family.

    JSON has no infinity, so transformers writes it as an object.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = CONFIG_MAPPING[config["model_type"]]
    return kind.from_dict(with_floats(copy.deepcopy(dict(config))))


def with_floats(value: Any) -> Any:
    """Return a value of a JSON document with the numbers that transformers wrote as objects."""
    if isinstance(value, dict):
        if value.keys() == {"__float__"}:
            return float(value["__float__"])
        return {key: with_floats(inner) for key, inner in value.items()}
    return [with_floats(inner) for inner in value] if isinstance(value, list) else value
