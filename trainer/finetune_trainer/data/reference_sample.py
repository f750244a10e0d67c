"""The rows that a build is later held against: few, chosen by content and seed, texts included.

Held-out rows where there are any; otherwise rows that were trained. Only staging sees texts, so it
chooses; a heap of bounded size does it in the one pass that reads the rows.
"""

import hashlib
import heapq
from dataclasses import dataclass
from typing import Any

from finetune_trainer.data.chat_rendering import IGNORED, Encoded, Renderer
from finetune_trainer.data.schema import BrokenRow, Example

FILE = "sample.json"
LENGTH = 512
"""Tokens that a row is cut to: what scoring one costs is bounded, whatever the dataset."""
ENOUGH_TOKENS = 2000
"""Answer tokens that suffice to detect a faulty tensor (docs/concepts/verification.md)."""
ENOUGH_ROWS = 32
"""Rows that an evaluation needs for a standard error; only held-out rows are one."""
MOST_ROWS = 256

PLAIN = {"system", "user", "assistant"}


@dataclass(frozen=True, kw_only=True, order=True)
class _Candidate:
    rank: int
    content: int
    example: Example
    encoded: Encoded


class Sample:
    """Collects candidates; ``choose`` returns the rows in a fixed order."""

    def __init__(self, *, seed: int) -> None:
        """Two datasets with the same rows and seed have the same sample."""
        self._seed = seed
        self._heaps: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        self._kept: dict[int, _Candidate] = {}

    def offer(
        self, example: Example, encoded: list[Encoded], content: int, *, held_out: bool
    ) -> None:
        """Take a row into account; ``held_out`` says whether its content may be held out."""
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
        """Return the rows as ``finetune_api.contracts.reference.Row`` has them, without scores.

        held_out: whether rows were held out; then only those are chosen.
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
    """Return the learned stretches of a row; nothing predicts its first token."""
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
    """Return what a client would send for a row, and the tokens that it must become.

    Conversations with tool calls are left out: servers reshape those before they render them.
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
