"""Renders conversations and texts to token ids and labels, the same for every backend.

The tokens of an answer are found by rendering the conversation step by step with the template that
is also used for serving. The prompt before an answer is tokenized exactly as a request; the answer
is the text that the next rendering adds. Templates need no generation markers. For some published
templates, TRL has training templates with such markers, which show where an answer ends within the
whole conversation. Some templates (Phi 3) write another token after the last answer only; without
markers, each answer of such a conversation would be a sequence of its own.

Labels have the token ids that the loss covers, and ``IGNORED`` elsewhere; they are not shifted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from finetune_api.v1alpha1.data.rows import ToolCallParser
from finetune_trainer.data import tool_calls, training_templates
from finetune_trainer.data.rows.conversations import BrokenRow, Message
from finetune_trainer.data.rows.schema import Example

IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Token ids and labels of one training sequence, both of the same length."""

    input_ids: list[int]
    labels: list[int]

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.input_ids)


class Renderer:
    """Renders with one tokenizer and one template; ``stops`` are the ids that end an answer."""

    def __init__(
        self, tokenizer: Any, *, template: str | None, train_on: str, stops: Sequence[int]
    ) -> None:
        """``template`` is Jinja text, or None for plain text; ``train_on`` is responses or all."""
        self._tokenizer = tokenizer
        self._template = template
        self._all = train_on == "all"
        self._marked = training_templates.training_template(template or "")
        self._stops = frozenset(stops)
        self._eos = tokenizer.eos_token_id
        self._tools: list[dict[str, Any]] | None = None
        """The tools of the row that is rendered."""
        self._shows_tools = False
        """Whether the template is known to write tools into the prompt."""
        self._short_ids = False
        """Whether the template accepts only ids of tool calls with nine characters."""
        self.parser: ToolCallParser | None = None
        """Parser of vLLM for the tool calls that were rendered."""

    def example(self, example: Example) -> list[Encoded]:
        """Encode a row. Raises BrokenRow."""
        if example.text is not None:
            return self.text(example.text)
        return self.conversation(example.messages or [], tools=example.tools, silent=example.silent)

    def text(self, text: str) -> list[Encoded]:
        """Encode a plain text; all tokens are trained on, the end token included."""
        ids = list(self._tokenizer(text).input_ids)
        if self._eos is not None and (not ids or ids[-1] not in self._stops):
            ids.append(self._eos)
        return [Encoded(input_ids=ids, labels=list(ids))]

    def conversation(
        self,
        messages: list[Message],
        *,
        tools: list[dict[str, Any]] | None = None,
        silent: frozenset[int] = frozenset(),
    ) -> list[Encoded]:
        """Encode a conversation as one sequence, or more if the template rewrites its history.

        tools: written into the prompt. silent: positions of answers that the loss does not cover.

        Some templates drop earlier reasoning once a later turn exists. The rendering of one answer
        is then not a prefix of the next, and each answer becomes a separate sequence with the
        history that a request at that point contains.
        """
        self._tools = tools
        if tools and not self._shows_tools:
            self._require_shown(messages)
        if self._all and silent:
            raise BrokenRow(
                "has messages with weight 0, but training.trainOn is all: set trainOn to "
                "responses, or remove the weights"
            )
        if self._all:
            ids = self._with_end(self._ids(self._render(messages, prompt=False)))
            return [Encoded(input_ids=ids, labels=list(ids))]
        done: list[Encoded] = []
        text, ids, labels = "", list[int](), list[int]()
        whole, ends = self._marked_rendering(messages)
        for at, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = self._render(messages[:at], prompt=True)
            if not prompt.startswith(text):
                done.append(Encoded(input_ids=ids, labels=labels))
                text, ids, labels = "", [], []
            added = self._added(text, prompt, ids)
            ids, labels = ids + added, labels + [IGNORED] * len(added)
            answered = self._answered(prompt, whole, ends) if at < len(messages) - 1 else None
            text = answered or self._render(messages[: at + 1], prompt=False)
            if not text.startswith(prompt):
                text = prompt + self._answer_alone(messages[: at + 1], prompt, text)
            self._require_calls(messages[: at + 1], text[len(prompt) :])
            answer = self._added(prompt, text, ids)
            if at == len(messages) - 1:
                answer = self._with_end(answer)
            learned = [IGNORED] * len(answer) if at in silent else self._until_stop(answer)
            ids, labels = ids + answer, labels + learned
        done.append(Encoded(input_ids=ids, labels=labels))
        return done

    def _marked_rendering(self, messages: list[Message]) -> tuple[str, list[int]]:
        """Return the rendering, and where its answers end, if the template has markers at TRL."""
        answers = [message for message in messages if message["role"] == "assistant"]
        if self._marked is None or len(answers) < 2:
            return "", []
        rendering = training_templates.render(
            self._marked, messages, self._tokenizer, tools=self._tools
        )
        if rendering is None or rendering[0] != self._render(messages, prompt=False):
            # The training template renders this conversation differently.
            return "", []
        return rendering

    def _answered(self, prompt: str, whole: str, ends: list[int]) -> str | None:
        """Return a prompt with its answer; None unless a marker ends it after an end token."""
        end = next((marker for marker in ends if marker > len(prompt)), 0)
        ended = whole.startswith(prompt) and not self._stops.isdisjoint(
            self._ids(whole[len(prompt) : end])
        )
        return whole[:end] if ended else None

    def _require_shown(self, messages: list[Message]) -> None:
        """Raise BrokenRow if the template does not write the tools into the prompt."""
        asked = next(at for at, message in enumerate(messages) if message["role"] == "assistant")
        with_tools = self._render(messages[:asked], prompt=True)
        tools, self._tools = self._tools, None
        self._shows_tools = self._render(messages[:asked], prompt=True) != with_tools
        self._tools = tools
        if not self._shows_tools:
            raise tool_calls.ignored_tools()

    def _require_calls(self, messages: list[Message], answer: str) -> None:
        """Raise BrokenRow if an answer lacks a tool call of its message; record the parser."""
        names = tool_calls.calls_of(messages)
        for name in names:
            if name not in answer:
                raise tool_calls.ignored_call(name)
        if names and self.parser is None:
            self.parser = tool_calls.parser_of(answer)

    def request(self, content: str | list[Message]) -> list[int]:
        """Return the token ids of a request with a text (completion) or messages (chat)."""
        self._tools = None
        if isinstance(content, str):
            return list(self._tokenizer(content).input_ids)
        return self._ids(self._render(content, prompt=True))

    def prompt(self, messages: Sequence[Message]) -> str:
        """Return the text of a chat request. Raise BrokenRow."""
        self._tools = None
        return self._apply(list(messages), prompt=True)

    def _answer_alone(self, messages: list[Message], prompt: str, text: str) -> str:
        """Return the rendering of the last answer if the template rewrites the text before it.

        Mistral's template writes the system message into the last user turn, and nowhere after that
        turn is answered. The answer is trained after ``prompt``, as in a request. It starts where
        the rendering of the same conversation with another answer differs, whitespace included.
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
                f"message {at} is an answer, and the chat template renders the messages before it "
                "differently with and without this answer. Therefore, the trainer cannot "
                "determine the tokens of the answer: set training.trainOn to all, or set "
                "dataset.chatTemplate to another template"
            )
        return answer.removeprefix(blanks)

    def _added(self, before: str, after: str, ids: list[int]) -> list[int]:
        """Return the token ids that ``after`` adds to ``before``, whose ids are ``ids``."""
        whole = self._ids(after)
        if whole[: len(ids)] == ids:
            return whole[len(ids) :]
        # A token would span the border. A server tokenizes the prompt alone and never sees such a
        # token, so both sides are tokenized separately.
        return self._ids(after[len(before) :])

    def _with_end(self, ids: list[int]) -> list[int]:
        """Append the end-of-sequence token if the template ends an answer without one."""
        if self._eos is None or not self._stops.isdisjoint(ids[-4:]):
            return ids
        return [*ids, self._eos]

    def _until_stop(self, answer: list[int]) -> list[int]:
        """Return labels up to the end token; text of the template after it is never sampled."""
        end = next((at for at, token in enumerate(answer) if token in self._stops), None)
        if end is None:
            return list(answer)
        return answer[: end + 1] + [IGNORED] * (len(answer) - end - 1)

    def _render(self, messages: list[Message], *, prompt: bool) -> str:
        if self._short_ids:
            messages = tool_calls.with_short_ids(messages)
        try:
            return self._apply(messages, prompt=prompt)
        except BrokenRow:
            if not any("tool_calls" in message for message in messages):
                raise
            if not self._short_ids and self._accepts(tool_calls.with_short_ids(messages)):
                self._short_ids = True
                return self._render(messages, prompt=prompt)
            short = tool_calls.with_short_ids(tool_calls.with_first_calls(messages))
            if self._accepts(tool_calls.with_first_calls(messages)) or self._accepts(short):
                raise tool_calls.several_calls(messages) from None
            raise

    def _accepts(self, messages: list[Message]) -> bool:
        """Report whether the template renders some messages."""
        try:
            self._apply(messages, prompt=False)
        except BrokenRow:
            return False
        return True

    def _apply(self, messages: list[Message], *, prompt: bool) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    messages,
                    tools=self._tools,
                    tokenize=False,
                    add_generation_prompt=prompt,
                    chat_template=self._template,
                )
            )
        except RecursionError:
            raise BrokenRow(
                "the row or the chat template is nested too deeply: remove the row, or set "
                "dataset.chatTemplate to another template"
            ) from None
        except (jinja2.TemplateError, TypeError, KeyError, ValueError, OverflowError) as error:
            raise BrokenRow(f"the chat template fails on this row: {error}") from error

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)


def _shared_start(first: str, second: str) -> str:
    """Return the common prefix of two texts."""
    length = next(
        (at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
        min(len(first), len(second)),
    )
    return first[:length]
