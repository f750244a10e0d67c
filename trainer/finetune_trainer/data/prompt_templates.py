"""The prompt that is trained and the prompt that is served are rendered by one chat template.

``chat`` is the base's own, or ``dataset.chatTemplate`` in its place. ``alpaca`` is the template
below, ``own`` one made of ``dataset.promptFormat``. Where the template is not, word for word, what
the base ships, the adapter and the merged model ship it, so that the chat endpoint renders what was
trained: measured on SmolLM2, a model trained on the Alpaca prompt but asked through the base's own
template gives 7 of 20 taught answers instead of 20.
"""

import re
from dataclasses import dataclass
from datetime import date
from typing import Any

import jinja2

from finetune_api.v1alpha1.dataset import PROMPT_PLACEHOLDER, Dataset
from finetune_trainer.errors import InvalidSpec

ALPACA_INPUT = "\n\n### Input:\n"
"""What separates an instruction from its input within one user message."""

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
    """How rows are rendered: chat, alpaca, own or None (as they are), and the Jinja text.

    ``shipped`` tells whether the text has to go where the model goes, since the base has another.
    ``frozen`` is the date that stands in it for today's, or None.
    """

    kind: str | None
    text: str | None
    shipped: bool = False
    frozen: str | None = None


def choose(dataset: Dataset, tokenizer: Any, *, source: str, today: date) -> Template:
    """Return what a dataset's rows are rendered with. ``source`` is what messages call the base."""
    if dataset.format == "text":
        return Template(kind=None, text=None)
    with_bos = tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]
    if dataset.prompt_format is not None:
        return Template(
            kind="own", text=own(dataset.prompt_format, with_bos=with_bos), shipped=True
        )
    base = tokenizer.get_chat_template() if tokenizer.chat_template else None
    text = dataset.chat_template or base
    if dataset.prompt_template == "alpaca" or (dataset.prompt_template == "auto" and not text):
        if dataset.format == "messages":
            raise InvalidSpec(
                f"model {source} has no chat template to render conversations with: write one in "
                "dataset.chatTemplate, or choose the model's instruction-tuned sibling"
            )
        return Template(kind="alpaca", text=alpaca(with_bos=with_bos), shipped=True)
    if not text:
        raise InvalidSpec(
            f"dataset.promptTemplate is chat, but model {source} has no chat template: write one "
            "in dataset.chatTemplate, set promptTemplate to auto, or choose the model's "
            "instruction-tuned sibling"
        )
    _require_jinja(text, tokenizer, own=dataset.chat_template is not None, source=source)
    final, frozen = freeze(text, today)
    return Template(kind="chat", text=final, shipped=final != base, frozen=frozen)


def alpaca(*, with_bos: bool) -> str:
    """Return the Alpaca prompt as a chat template. Its generation prompt is always there."""
    return _opened(_ALPACA, with_bos=with_bos)


def own(prompt: str, *, with_bos: bool) -> str:
    """Return ``dataset.promptFormat`` as a chat template: {prompt} is the user's message."""
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
    """Return a template that no longer reads the clock, and the date it shows (None: never did).

    Llama 3.2's puts today's date into every prompt. Then each day's prompt is another than the one
    that was trained, and two runs of a job see other tokens. A macro of the clock's name comes
    before it in Jinja, so the template stays as it is below one line.
    """
    if CLOCK not in text:
        return text, None
    formats = sorted({single or double for single, double in _CALL.findall(text)})
    if len(re.findall(rf"{CLOCK}\s*\(", text)) != len(_CALL.findall(text)):
        raise InvalidSpec(
            f"the base's chat template computes the format of a date that it shows ({CLOCK}), so "
            "the date cannot be fixed: write the template in dataset.chatTemplate, with the date "
            "as text"
        )
    if not formats:
        return text, None
    days = ", ".join(f"{_quoted(each)}: {_quoted(today.strftime(each))}" for each in formats)
    macro = f"{{%- macro {CLOCK}(format) %}}{{{{- {{{days}}}[format] -}}}}{{%- endmacro %}}"
    # The line end is the macro's own: Jinja is told to drop the first one after a block.
    return f"{macro}\n{text}", today.isoformat()


def _require_jinja(text: str, tokenizer: Any, *, own: bool, source: str) -> None:
    try:
        tokenizer.apply_chat_template(
            [{"role": "user", "content": "?"}], chat_template=text, tokenize=False
        )
    except jinja2.TemplateSyntaxError as error:
        whose = "dataset.chatTemplate" if own else f"the chat template of model {source}"
        remediation = "correct it" if own else "write one in dataset.chatTemplate"
        raise InvalidSpec(
            f"{whose} is no Jinja template (line {error.lineno}: {error}): {remediation}"
        ) from error
    except (jinja2.TemplateError, TypeError, KeyError, ValueError, OverflowError):
        # It refuses this question, and may take the rows' own.
        return
