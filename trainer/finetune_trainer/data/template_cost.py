"""Limits of the chat templates that a shared endpoint renders.

The requests of all names are rendered by one process, so a slow template of one job would delay the
answers of the others.
"""

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from finetune_api.contracts.endpoint import LONGEST_TEMPLATE
from finetune_trainer.data.chat_rendering import Renderer
from finetune_trainer.data.rows.conversations import BrokenRow, Message
from finetune_trainer.errors import InvalidSpec

MESSAGES = 500
SECONDS = 0.05
TRIES = 3
"""The first rendering compiles the template."""
REMEDY = (
    "set dataset.chatTemplate to a simpler template, or set serving.mode: merged to serve the "
    "model on a GPU of its own"
)


def check(renderer: Renderer, template: str, sample: Iterable[dict[str, Any]]) -> None:
    """Raise InvalidSpec for a chat template that is too large or too slow.

    sample: the rows of the reference (``reference_sample``).
    """
    size = len(template.encode())
    if size > LONGEST_TEMPLATE:
        raise InvalidSpec(
            f"the chat template has {size} bytes, but a shared endpoint accepts at most "
            f"{LONGEST_TEMPLATE}: {REMEDY}"
        )
    rows = [row["messages"] for row in sample if row["messages"] is not None]
    for number, messages in enumerate(rows, start=1):
        _require_fast(renderer, messages, f"row {number} of the reference")
    _require_fast(renderer, conversation(), f"a conversation of {MESSAGES} messages")


def conversation() -> list[Message]:
    """Return a long conversation, which ends with a question."""
    return [
        {"role": "assistant" if at % 2 else "user", "content": f"Message {at} of a long talk."}
        for at in range(MESSAGES + 1)
    ]


def _require_fast(renderer: Renderer, messages: Sequence[Message], what: str) -> None:
    seconds = min(_seconds(renderer, messages) for _ in range(TRIES))
    if seconds > SECONDS:
        raise InvalidSpec(
            f"the chat template needs {1000 * seconds:.0f} ms to render {what}, but a shared "
            f"endpoint allows {1000 * SECONDS:.0f} ms: {REMEDY}"
        )


def _seconds(renderer: Renderer, messages: Sequence[Message]) -> float:
    """Return the CPU time of a rendering, which does not depend on other pods of the node."""
    began = time.thread_time()
    # Many templates reject some conversations; the time counts.
    with suppress(BrokenRow):
        renderer.prompt(messages)
    return time.thread_time() - began
