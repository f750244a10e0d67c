"""From a conversation to token ids and labels, once for every backend.

Which tokens belong to an answer is found by rendering the conversation piece by piece with the same
template that will serve: the prompt before each answer is tokenized exactly as a request would be,
and the answer is what the next rendering adds to it. No template needs generation markers for it.

Labels carry the token ids that the loss is taken on, ``IGNORED`` elsewhere; they are not shifted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from finetune_trainer.data.schema import BrokenRow, Message

IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Token ids of one training sequence, and as many labels."""

    input_ids: list[int]
    labels: list[int]

    def __len__(self) -> int:
        """Tokens."""
        return len(self.input_ids)


class Renderer:
    """Renders with one tokenizer and one template; ``stops`` are the ids that end an answer."""

    def __init__(
        self, tokenizer: Any, *, template: str | None, train_on: str, stops: Sequence[int]
    ) -> None:
        """``template`` is the Jinja text (None for text rows), ``train_on`` responses or all."""
        self._tokenizer = tokenizer
        self._template = template
        self._all = train_on == "all"
        self._stops = frozenset(stops)
        self._eos = tokenizer.eos_token_id

    def text(self, text: str) -> list[Encoded]:
        """Encode a plain text: every token is learned, the end included."""
        ids = list(self._tokenizer(text).input_ids)
        if self._eos is not None and (not ids or ids[-1] not in self._stops):
            ids.append(self._eos)
        return [Encoded(input_ids=ids, labels=list(ids))]

    def conversation(self, messages: list[Message]) -> list[Encoded]:
        """Encode a conversation: one sequence, or more where the template rewrites its history.

        Some templates drop earlier reasoning once a later turn exists. Then what was rendered for
        one answer is no beginning of what is rendered for the next, and each answer gets a sequence
        of its own, with the history that a request at that point would show.
        """
        if self._all:
            ids = self._with_end(self._ids(self._render(messages, prompt=False)))
            return [Encoded(input_ids=ids, labels=list(ids))]
        done: list[Encoded] = []
        text, ids, labels = "", list[int](), list[int]()
        for at, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = self._render(messages[:at], prompt=True)
            if not prompt.startswith(text):
                done.append(Encoded(input_ids=ids, labels=labels))
                text, ids, labels = "", [], []
            added = self._added(text, prompt, ids)
            ids, labels = ids + added, labels + [IGNORED] * len(added)
            text = self._render(messages[: at + 1], prompt=False)
            if not text.startswith(prompt):
                text = prompt + self._answer_alone(messages[: at + 1], prompt, text)
            answer = self._added(prompt, text, ids)
            if at == len(messages) - 1:
                answer = self._with_end(answer)
            ids, labels = ids + answer, labels + self._until_stop(answer)
        done.append(Encoded(input_ids=ids, labels=labels))
        return done

    def request(self, asked: str | list[Message]) -> list[int]:
        """Return the token ids that a server makes of a text, or of messages to be answered."""
        if isinstance(asked, str):
            return list(self._tokenizer(asked).input_ids)
        return self._ids(self._render(asked, prompt=True))

    def _answer_alone(self, messages: list[Message], prompt: str, text: str) -> str:
        """Return what a template makes of the last answer, where it rewrites what is before it.

        Mistral's puts the system message into the last turn, and so nowhere once that is answered.
        A request shows ``prompt``, so that is what the answer is trained behind. It begins where
        the same conversation with another answer begins to differ; blanks before it are its own.
        """
        at, content = len(messages) - 1, messages[-1].get("content")
        before = ""
        if content:
            probe = "#" if not content.lstrip().startswith("#") else "*"
            other = self._render([*messages[:-1], {**messages[-1], "content": probe}], prompt=False)
            before = _shared_start(text, other)
        opened = before.rstrip()
        shared = _shared_start(opened[::-1], prompt.rstrip()[::-1])[::-1]
        asked = str(messages[at - 1].get("content") or "").strip() if at else ""
        blanks = prompt[len(prompt.rstrip()) :]
        answer = text[len(opened) :]
        if not asked or asked not in shared or not answer.startswith(blanks):
            raise BrokenRow(
                f"the chat template renders answer {at} differently from the prompt that asks "
                "for it, so the answer's tokens cannot be told: set training.trainOn to all, "
                "or write a template in dataset.chatTemplate"
            )
        return answer.removeprefix(blanks)

    def _added(self, before: str, after: str, ids: list[int]) -> list[int]:
        """Token ids that ``after`` adds to ``before``, whose ids are known."""
        whole = self._ids(after)
        if whole[: len(ids)] == ids:
            return whole[len(ids) :]
        # A token would span the border. A server never sees such a token, since it tokenizes the
        # prompt alone: the border stays where it is.
        return self._ids(after[len(before) :])

    def _with_end(self, ids: list[int]) -> list[int]:
        """Add the end-of-sequence token where the template ends an answer with none."""
        if self._eos is None or not self._stops.isdisjoint(ids[-4:]):
            return ids
        return [*ids, self._eos]

    def _until_stop(self, answer: list[int]) -> list[int]:
        """Learn an answer up to its end token; what the template adds after it is never sampled."""
        end = next((at for at, each in enumerate(answer) if each in self._stops), None)
        if end is None:
            return list(answer)
        return answer[: end + 1] + [IGNORED] * (len(answer) - end - 1)

    def _render(self, messages: list[Message], *, prompt: bool) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    messages,
                    tokenize=False,
                    add_generation_prompt=prompt,
                    chat_template=self._template,
                )
            )
        except (jinja2.TemplateError, TypeError, KeyError, ValueError, OverflowError) as error:
            raise BrokenRow(f"the chat template refuses it: {error}") from error

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)


def _shared_start(one: str, other: str) -> str:
    """Return the characters that both texts begin with."""
    length = next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
    return one[:length]
