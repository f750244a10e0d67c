"""``reference/reference.json``: log-probabilities of the tuned model on rows of its dataset.

The trainer writes it at the end of training; the verifier compares the served model with it. It
contains texts of rows, so it never leaves the volume.

Log-probabilities are natural logarithms, one for each scored token, computed in float32 unless a
field states another type. They are recorded for both values of ``merge.base``, which are different
models.
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
        # Errors end up in the status, which must not contain texts of rows.
        hide_input_in_errors=True,
    )


class Scores(_Document):
    """Log-probabilities of the scored tokens of one row, for one value of merge.base."""

    base: list[float]
    """Without the adapter. Computed in bfloat16, except for held-out rows on the original base."""
    tuned: list[float]
    """With the adapter."""
    rounded: list[float]
    """With the adapter, computed in bfloat16: shows the effect of rounding on this model."""


class Row(_Document):
    """One row, truncated to the length of the reference.

    ``messages`` is the conversation up to the last answer, as in a chat request; ``text`` is a
    whole row of plain text. ``prompt_ids`` are the token IDs that a server must produce from the
    one that is set. All three are null if the row cannot be sent in the form that was trained.
    """

    ids: list[int] = Field(min_length=2)
    spans: list[tuple[int, int]]
    """Scored tokens as half-open ranges of positions in ``ids``. Position 0 is never scored: it has
    no log-probability."""
    messages: list[dict[str, Any]] | None = None
    text: str | None = None
    prompt_ids: list[int] | None = None
    dataset: str | None = None
    """Path of the dataset of the row in the spec; null if the job has only one."""
    dequantized: Scores
    original: Scores

    def scores(self, base: BaseKind) -> Scores:
        """Return the log-probabilities for one value of merge.base."""
        return self.dequantized if base == "dequantized" else self.original

    @property
    def positions(self) -> list[int]:
        """Positions of the scored tokens in ``ids``."""
        return [at for start, end in self.spans for at in range(start, end)]


class Reference(_Document):
    """All rows of the reference."""

    rows: list[Row]
    long_row: Row | None = None
    """Tokens of all rows, one row after another, for positions after those of the rows. None in
    older references, and if the rows have too few tokens."""
    held_out: bool
    """Whether the rows were held out; otherwise they are a sample of the training rows."""
    largest_activation: int | None = None
    """Largest magnitude of an activation of the tuned models on these rows, rounded up."""

    @property
    def tokens(self) -> int:
        """Number of scored tokens in all rows."""
        return sum(len(row.original.tuned) for row in self.rows)
