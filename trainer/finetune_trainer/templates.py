"""The prompt that is trained and the prompt that is served are rendered by one chat template.

``chat`` is the base's own. ``alpaca`` is the template below; the merged model ships it, so that the
chat endpoint renders what was trained: measured on SmolLM2, a model trained on the Alpaca prompt
but asked through the base's own template gives 7 of 20 taught answers instead of 20.
"""

import json
import re
from datetime import datetime

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


def alpaca(*, with_bos: bool) -> str:
    """Return the Alpaca prompt as a chat template. Its generation prompt is always there."""
    return _ALPACA.replace("BOS\n", "{{- bos_token -}}\n" if with_bos else "")


def choose(wanted: str, *, format_: str, base_template: str | None, source: str) -> str | None:
    """Return ``chat``, ``alpaca``, or None for rows that are trained as they are."""
    if format_ == "text":
        return None
    if wanted == "auto":
        wanted = "chat" if base_template else "alpaca"
        if wanted == "alpaca" and format_ == "messages":
            raise InvalidSpec(
                f"model {source} has no chat template to render conversations with: choose its "
                "instruction-tuned sibling, or a dataset of format alpaca or prompt-completion"
            )
    if wanted == "chat" and not base_template:
        raise InvalidSpec(
            f"dataset.promptTemplate is chat, but model {source} has no chat template: set it to "
            "auto, or choose the model's instruction-tuned sibling"
        )
    return wanted


_CLOCK = re.compile(r"""strftime_now\(\s*(?P<quote>['"])(?P<format>[^'"]*)(?P=quote)\s*\)""")


def frozen(template: str, now: datetime, *, source: str) -> str:
    """Return a template that reads the clock (Llama 3.2's does) with the date of ``now`` in it.

    The endpoint would otherwise render another prompt each day, and none of them the trained one.
    """
    text = _CLOCK.sub(lambda call: json.dumps(now.strftime(call["format"])), template)
    if "strftime_now(" in text:
        raise InvalidSpec(
            f"the chat template of model {source} reads the clock in a way that cannot be frozen "
            "(strftime_now without a plain format): choose another revision of the model"
        )
    return text
