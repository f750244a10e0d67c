"""The thinned loss history of a training, as the trainer serves and reports it."""

from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema

from finetune_api.base import MAX_NUMBER

MOST_POINTS = 200
"""Of a series, so that a status that a compromised pod has reported stays small."""
_PAIR = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
Point = Annotated[
    tuple[
        Annotated[int, Field(ge=0, le=MAX_NUMBER)],
        Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER, allow_inf_nan=False)],
    ],
    WithJsonSchema(_PAIR),
]
"""A step and a value, which the API server accepts in a status."""
Name = Literal["loss", "evalLoss", "learningRate", "tokensPerSecond"]
LossSeries = dict[Name, Annotated[list[Point], Field(max_length=MOST_POINTS)]]
"""Series by name. Of a long training, evenly chosen points are left."""
