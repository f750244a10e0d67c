"""Selects the sample rows on which builds are verified, by content and seed, texts included.

The sample has held-out rows if there are any, otherwise training rows. It is selected during
preparation, the only stage that reads texts, in one pass and with heaps of bounded size.
"""

import hashlib
import heapq
from dataclasses import dataclass
from typing import Any

from finetune_trainer.data.chat_rendering import IGNORED, Encoded, Renderer
from finetune_trainer.data.schema import BrokenRow, Example

FILE = "sample.json"
LENGTH = 512
"""Rows are cut to this many tokens, which bounds the cost of scoring."""
ENOUGH_TOKENS = 2000
"""Answer tokens that suffice to detect a faulty tensor (docs/concepts/verification.md)."""
ENOUGH_ROWS = 32
"""Rows that an evaluation needs for a standard error; required of held-out rows only."""
MOST_ROWS = 256

PLAIN = {"system", "user", "assistant"}


@dataclass(frozen=True, kw_only=True, order=True)
class _Candidate:
    rank: int
    content: int
    example: Example
    encoded: Encoded


class Sample:
    """Collects candidate rows; ``choose`` returns the sample in a fixed order."""

    def __init__(self, *, seed: int) -> None:
        """The same rows and ``seed`` give the same sample."""
        self._seed = seed
        self._heaps: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        self._kept: dict[int, _Candidate] = {}

    def offer(
        self, example: Example, encoded: list[Encoded], content: int, *, held_out: bool
    ) -> None:
        """Consider a row; ``held_out`` is True if it may be held out by its content."""
        cut = encoded[-1]
        cut = Encoded(input_ids=cut.input_ids[:LENGTH], labels=cut.labels[:LENGTH])
        if all(label == IGNORED for label in cut.labels[1:]) or content in self._kept:
            return
        rank = int.from_bytes(hashlib.sha256(f"{self._seed} {content}".encode()).digest()[:8])
        heap = self._heaps[held_out]
        if len(heap) == MOST_ROWS and rank >= -heap[0][0]:
            return
        self._kept[content] = _Candidate(rank=rank, content=content, example=example, encoded=cut)
        if len(heap) < MOST_ROWS:
            heapq.heappush(heap, (-rank, content))
        else:
            _, gone = heapq.heapreplace(heap, (-rank, content))
            del self._kept[gone]

    def choose(self, renderer: Renderer, *, held_out: bool) -> list[dict[str, Any]]:
        """Return rows of ``finetune_api.contracts.reference.Row`` without scores.

        ``held_out`` is True if rows were held out; then only those are selected.
        """
        pools = (True,) if held_out else (False, True)
        candidates = sorted(
            (self._kept[content] for pool in pools for _, content in self._heaps[pool]),
            key=lambda candidate: (candidate.rank, candidate.content),
        )
        rows: list[dict[str, Any]] = []
        tokens = 0
        for candidate in candidates[:MOST_ROWS]:
            if tokens >= ENOUGH_TOKENS and (not held_out or len(rows) >= ENOUGH_ROWS):
                break
            spans = spans_of(candidate.encoded.labels)
            tokens += sum(end - start for start, end in spans)
            rows.append(
                {
                    "ids": candidate.encoded.input_ids,
                    "spans": spans,
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
    plain = all(
        set(message) == {"role", "content"} and message["role"] in PLAIN for message in messages
    )
    if not messages or not plain:
        return nothing
    try:
        return nothing | {"messages": messages, "promptIds": renderer.request(messages)}
    except BrokenRow:
        return nothing
