"""``reference/reference.json``: what the tuned model says about some rows of its own dataset.

The trainer writes it at the end of training; the verify container compares what is served with it.
Row texts are in it, so it never leaves the volume.

Log-probabilities are natural logarithms, one for each scored token, computed in float32 unless a
field says otherwise. They are kept for both bases that a merge can choose (``merge.base``), since
those are different models.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

FOLDER = "reference"
FILE = "reference.json"
KIND = "reference"

BaseKind = Literal["dequantized", "original"]


class _Document(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        # An error's text reaches the status, which row texts must not.
        hide_input_in_errors=True,
    )


class Scores(_Document):
    """Log-probabilities of one row's scored tokens on one base."""

    base: list[float]
    """Without the adapter. Computed in bfloat16, but for the rows that were held out, on the
    original base."""
    tuned: list[float]
    """With it."""
    rounded: list[float]
    """With it too, but computed in bfloat16: how much rounding moves this model."""


class Row(_Document):
    """One row, cut to the reference's length.

    ``messages`` are the conversation up to the last answer, as a chat request sends them, and
    ``text`` is a whole row of plain text; ``prompt_ids`` are the token ids that a server must make
    of the one that is set. All three are null where a row cannot be sent as it was trained.
    """

    ids: list[int] = Field(min_length=2)
    spans: list[tuple[int, int]]
    """Scored tokens as positions in ``ids``, each span from its first to past its last; position 0
    has no log-probability and is never among them."""
    messages: list[dict[str, Any]] | None = None
    text: str | None = None
    prompt_ids: list[int] | None = None
    dequantized: Scores
    original: Scores

    def scores(self, base: BaseKind) -> Scores:
        """Return the log-probabilities on one base."""
        return self.dequantized if base == "dequantized" else self.original

    @property
    def positions(self) -> list[int]:
        """Positions of the scored tokens in ``ids``."""
        return [at for start, end in self.spans for at in range(start, end)]


class Reference(_Document):
    """All rows, and what they were computed with."""

    rows: list[Row]
    held_out: bool
    """Whether the rows were kept from training; otherwise they are a sample of what was trained."""

    @property
    def tokens(self) -> int:
        """Scored tokens of all rows."""
        return sum(len(row.original.tuned) for row in self.rows)
