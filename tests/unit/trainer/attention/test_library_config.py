"""config.json as an object of transformers."""

import math

import pytest

from finetune_trainer.attention import library_config


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"__float__": "Infinity"}, math.inf),
        ({"__float__": "-Infinity"}, -math.inf),
        ({"limits": [0.0, {"__float__": "Infinity"}]}, {"limits": [0.0, math.inf]}),
        ({"__float__": "1", "other": 2}, {"__float__": "1", "other": 2}),
        ([None, True, "text", 3], [None, True, "text", 3]),
    ],
)
def test_numbers_that_json_lacks_are_read(written: object, read: object) -> None:
    assert library_config.with_floats(written) == read
