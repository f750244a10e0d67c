"""Chat templates that would delay the other names of a shared endpoint."""

from typing import Any

import pytest
from tests.support.trainer import tiny

from finetune_api.contracts.endpoint import LONGEST_TEMPLATE
from finetune_trainer.data import template_cost
from finetune_trainer.data.chat_rendering import Renderer
from finetune_trainer.errors import InvalidSpec

LOOP = "{% for a in range(9999) %}{% for b in range(300) %}{% set c = a %}{% endfor %}{% endfor %}"
SQUARE = "{% for a in messages %}{% for b in messages %}{{ b.role }}{% endfor %}{% endfor %}"
SAMPLE: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "?"}]},
    {"messages": None},
]


def check(template: str, sample: list[dict[str, Any]] = SAMPLE) -> None:
    renderer = Renderer(tiny.tokenizer(), template=template, train_on="responses", stops=[0])
    template_cost.check(renderer, template, sample)


def test_a_usual_template() -> None:
    check(tiny.CHAT_TEMPLATE)


def test_a_template_that_rejects_a_long_conversation() -> None:
    check("{% if messages|length > 9 %}{{ raise_exception('too long') }}{% endif %}" + "{{ 1 }}")


def test_a_template_that_loops() -> None:
    with pytest.raises(InvalidSpec, match=r"ms to render row 1 of the reference.*chatTemplate"):
        check(LOOP)


def test_a_template_that_is_slow_for_long_conversations_only() -> None:
    with pytest.raises(InvalidSpec, match=r"ms to render a conversation of 500 messages.*50 ms"):
        check(SQUARE)


def test_the_size_is_in_bytes() -> None:
    check("ä" * (LONGEST_TEMPLATE // 2))
    with pytest.raises(InvalidSpec, match=f"has {LONGEST_TEMPLATE + 1} bytes"):
        check("ä" * (LONGEST_TEMPLATE // 2) + "x")
