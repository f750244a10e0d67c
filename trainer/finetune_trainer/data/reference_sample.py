"""Selects the sample rows on which builds are verified, by content and seed, texts included.

The sample has held-out rows if there are any, otherwise training rows. It is selected during
preparation, the only stage that reads texts, in one pass and with heaps of bounded size.
"""

import heapq
from dataclasses import dataclass
from typing import Any

from finetune_trainer.data.chat_rendering import IGNORED, Encoded, Renderer
from finetune_trainer.data.rows.conversations import BrokenRow
from finetune_trainer.data.rows.schema import Example

FILE = "sample.json"
LENGTH = 512
"""Rows are cut to this many tokens, which bounds the cost of scoring."""
ENOUGH_TOKENS = 2000
"""Answer tokens that suffice to detect a faulty tensor (docs/concepts/verification.md)."""
ENOUGH_ROWS = 32
"""Rows that an evaluation needs for a standard error; required of held-out rows only."""
MOST_ROWS = 256

PLAIN = {"system", "user", "assistant"}


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    content: int
    example: Example
    encoded: Encoded
    dataset: str | None


class Sample:
    """Collects candidate rows; ``choose`` returns the sample in a fixed order.

    The candidates are the rows with the smallest hashes. Held-out rows have the smallest hashes of
    all rows (``split``), so they are among the candidates, or fill a whole sample.
    """

    def __init__(self) -> None:
        """The same rows with the same hashes give the same sample."""
        self._heap: list[int] = []
        self._kept: dict[int, _Candidate] = {}

    def offer(
        self, example: Example, encoded: list[Encoded], content: int, *, dataset: str | None = None
    ) -> None:
        """Consider a row with the hash ``content``. dataset: its path, if there are several."""
        cut = encoded[-1]
        cut = Encoded(input_ids=cut.input_ids[:LENGTH], labels=cut.labels[:LENGTH])
        if all(label == IGNORED for label in cut.labels[1:]) or content in self._kept:
            return
        if len(self._heap) == MOST_ROWS and content >= -self._heap[0]:
            return
        self._kept[content] = _Candidate(
            content=content, example=example, encoded=cut, dataset=dataset
        )
        if len(self._heap) < MOST_ROWS:
            heapq.heappush(self._heap, -content)
        else:
            del self._kept[-heapq.heapreplace(self._heap, -content)]

    def choose(
        self, renderer: Renderer, *, held_out: bool, largest: int | None = None
    ) -> list[dict[str, Any]]:
        """Return rows of ``finetune_api.contracts.reference.Row`` without scores.

        held_out: whether the rows are held out. largest: only rows with a hash up to this one are
        selected, the largest hash of a held-out row.
        """
        candidates = [
            self._kept[content]
            for content in sorted(self._kept)
            if largest is None or content <= largest
        ]
        rows: list[dict[str, Any]] = []
        tokens = 0
        for candidate in candidates:
            if tokens >= ENOUGH_TOKENS and (not held_out or len(rows) >= ENOUGH_ROWS):
                break
            spans = spans_of(candidate.encoded.labels)
            tokens += sum(end - start for start, end in spans)
            rows.append(
                {
                    "ids": candidate.encoded.input_ids,
                    "spans": spans,
                    "dataset": candidate.dataset,
                    **_request(candidate.example, renderer),
                }
            )
        return rows


def spans_of(labels: list[int]) -> list[tuple[int, int]]:
    """Return (start, end) of the trained spans of a row; the first token is never predicted."""
    spans: list[tuple[int, int]] = []
    for at, label in enumerate(labels):
        if label == IGNORED or at == 0:
            continue
        if spans and spans[-1][1] == at:
            spans[-1] = (spans[-1][0], at + 1)
        else:
            spans.append((at, at + 1))
    return spans


def _request(example: Example, renderer: Renderer) -> dict[str, Any]:
    """Return the request of a client for a row, and the token ids that the server must get.

    Conversations with tool calls have no request, since servers transform them before rendering.
    """
    nothing = {"messages": None, "text": None, "promptIds": None}
    if example.text is not None:
        return nothing | {"text": example.text, "promptIds": renderer.request(example.text)}
    messages = (example.messages or [])[:-1]
    plain = not example.tools and all(
        set(message) == {"role", "content"} and message["role"] in PLAIN for message in messages
    )
    if not messages or not plain:
        return nothing
    try:
        return nothing | {"messages": messages, "promptIds": renderer.request(messages)}
    except BrokenRow:
        return nothing
