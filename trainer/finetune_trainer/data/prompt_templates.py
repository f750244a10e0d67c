"""Selects the chat template that renders prompts both in training and in serving.

``chat`` is the template of the base, or ``dataset.chatTemplate``. ``alpaca`` is the template below,
``own`` is built from ``dataset.promptFormat``. A template that differs from that of the base is
stored with the adapter and the merged model, so that the chat endpoint renders the trained prompt.
Measured on SmolLM2: a model trained on the Alpaca prompt but served with the base's template gives
7 of 20 trained answers instead of 20.
"""

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from typing import Any

import jinja2

from finetune_api.v1alpha1.data.dataset import PROMPT_PLACEHOLDER, Dataset
from finetune_api.v1alpha1.data.rows import CONVERSATIONS
from finetune_trainer.errors import InvalidSpec

ALPACA_INPUT = "\n\n### Input:\n"
"""Separator of instruction and input within one user message."""

_ALPACA = """\
{%- set alone = 'Below is an instruction that describes a task. Write a response that \
appropriately completes the request.' -%}
{%- set paired = 'Below is an instruction that describes a task, paired with an input that \
provides further context. Write a response that appropriately completes the request.' -%}
{%- set ns = namespace(opened=false) -%}
BOS
{%- for message in messages -%}
    {%- if message['role'] in ('system', 'developer') -%}
        {{- message['content'] + '\\n\\n' -}}
    {%- elif message['role'] == 'assistant' -%}
        {{- message['content'] + eos_token -}}
    {%- else -%}
        {%- if ns.opened -%}
            {{- '\\n\\n' -}}
        {%- else -%}
            {{- (paired if '\\n\\n### Input:\\n' in message['content'] else alone) + '\\n\\n' -}}
            {%- set ns.opened = true -%}
        {%- endif -%}
        {{- '### Instruction:\\n' + message['content'] + '\\n\\n### Response:\\n' -}}
    {%- endif -%}
{%- endfor -%}
"""
_OWN = """\
BOS
{%- for message in messages -%}
    {%- if message['role'] in ('system', 'developer') -%}
        {{- message['content'] + '\\n\\n' -}}
    {%- elif message['role'] == 'assistant' -%}
        {{- message['content'] + eos_token -}}
    {%- else -%}
        {{- BEFORE + message['content'] + AFTER -}}
    {%- endif -%}
{%- endfor -%}
"""
CLOCK = "strftime_now"
_CALL = re.compile(r"strftime_now\(\s*(?:'([^'\\]*)'|\"([^\"\\]*)\")\s*\)")


@dataclass(frozen=True, kw_only=True)
class Template:
    """How rows are rendered. ``kind`` is chat, alpaca, own or None (plain text).

    ``text`` is the Jinja text. ``shipped`` is True if the text must be stored with the model,
    because that of the base differs. ``frozen`` is the date that replaces the clock in it, or None.
    """

    kind: str | None
    text: str | None
    shipped: bool = False
    frozen: str | None = None

    @property
    def digest(self) -> str | None:
        """SHA-256 of the text, None for plain text."""
        if self.text is None:
            return None
        return f"sha256:{hashlib.sha256(self.text.encode()).hexdigest()}"


def choose(
    dataset: Dataset,
    tokenizer: Any,
    *,
    source: str,
    today: date,
    formats: Collection[str] | None = None,
) -> Template:
    """Return the template of a dataset. Messages call the base ``source``. Raises InvalidSpec.

    formats: those of all datasets that are rendered; None if there is only this one.
    """
    formats = {dataset.format} if formats is None else set(formats)
    if formats == {"text"}:
        return Template(kind=None, text=None)
    with_bos = tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]
    if dataset.prompt_format is not None:
        return Template(
            kind="own",
            text=from_prompt_format(dataset.prompt_format, with_bos=with_bos),
            shipped=True,
        )
    base = tokenizer.get_chat_template() if tokenizer.chat_template else None
    text = dataset.chat_template or base
    if dataset.prompt_template == "alpaca" or (dataset.prompt_template == "auto" and not text):
        if formats & set(CONVERSATIONS):
            raise InvalidSpec(
                f"model {source} has no chat template to render conversations: set "
                "dataset.chatTemplate, or choose the instruction-tuned variant of the model"
            )
        return Template(kind="alpaca", text=alpaca(with_bos=with_bos), shipped=True)
    if not text:
        raise InvalidSpec(
            f"dataset.promptTemplate is chat, but model {source} has no chat template: set "
            "dataset.chatTemplate, set promptTemplate to auto, or choose the instruction-tuned "
            "variant of the model"
        )
    _require_jinja(text, tokenizer, own=dataset.chat_template is not None, source=source)
    final, frozen = freeze(text, today)
    return Template(kind="chat", text=final, shipped=final != base, frozen=frozen)


def alpaca(*, with_bos: bool) -> str:
    """Return the Alpaca prompt as a chat template. It always has the generation prompt."""
    return _opened(_ALPACA, with_bos=with_bos)


def from_prompt_format(prompt: str, *, with_bos: bool) -> str:
    """Return ``dataset.promptFormat`` as a chat template; {prompt} is the message of the user."""
    before, after = prompt.split(PROMPT_PLACEHOLDER, 1)
    text = _OWN.replace("BEFORE", _quoted(before)).replace("AFTER", _quoted(after))
    return _opened(text, with_bos=with_bos)


def _opened(text: str, *, with_bos: bool) -> str:
    return text.replace("BOS\n", "{{- bos_token -}}\n" if with_bos else "", 1)


def _quoted(text: str) -> str:
    for mark, escaped in (("\\", "\\\\"), ("'", "\\'"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(mark, escaped)
    return f"'{text}'"


def freeze(text: str, today: date) -> tuple[str, str | None]:
    """Return the template with a fixed date instead of the clock, and the date (None: no clock).

    The template of Llama 3.2 writes the current date into every prompt. Without a fixed date the
    prompt would differ from the trained one on every other day, and two runs of a job would get
    different tokens. A Jinja macro with the name of the clock function takes precedence over it, so
    one added line suffices.
    """
    if CLOCK not in text:
        return text, None
    formats = sorted({single or double for single, double in _CALL.findall(text)})
    if len(re.findall(rf"{CLOCK}\s*\(", text)) != len(_CALL.findall(text)):
        raise InvalidSpec(
            f"the chat template passes a computed format to {CLOCK}, so the trainer cannot "
            "replace the date with a constant: copy the chat template, write the date as text in "
            "the copy, and set dataset.chatTemplate to the copy"
        )
    if not formats:
        return text, None
    days = ", ".join(
        f"{_quoted(pattern)}: {_quoted(today.strftime(pattern))}" for pattern in formats
    )
    macro = f"{{%- macro {CLOCK}(format) %}}{{{{- {{{days}}}[format] -}}}}{{%- endmacro %}}"
    # Jinja is configured to remove the first line end after a block, so this adds no text.
    return f"{macro}\n{text}", today.isoformat()


def _require_jinja(text: str, tokenizer: Any, *, own: bool, source: str) -> None:
    try:
        tokenizer.apply_chat_template(
            [{"role": "user", "content": "?"}], chat_template=text, tokenize=False
        )
    except jinja2.TemplateSyntaxError as error:
        raise _invalid(own, source, f"line {error.lineno}: {error}") from error
    except RecursionError:
        raise _invalid(own, source, "it is nested too deeply") from None
    except (jinja2.TemplateError, TypeError, KeyError, ValueError, OverflowError):
        # The template rejects this probe; it may accept the rows.
        return


def _invalid(own: bool, source: str, problem: str) -> InvalidSpec:
    whose = "dataset.chatTemplate" if own else f"the chat template of model {source}"
    remediation = "correct it" if own else "set dataset.chatTemplate"
    return InvalidSpec(f"{whose} is not a valid Jinja template ({problem}): {remediation}")
