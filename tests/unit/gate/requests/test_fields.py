"""Which fields of a request are passed on, and how."""

from typing import Any

import pytest

from finetune_gate.errors import BadRequest
from finetune_gate.requests.fields import (
    CHAT,
    COMPLETION,
    forwarded_chat,
    forwarded_completion,
    wants_usage,
)

MESSAGES = [{"role": "user", "content": "hello"}]


def chat(template: str | None = None, **body: Any) -> dict[str, Any]:
    return forwarded_chat(
        {"model": "m", "messages": MESSAGES, **body}, internal="i", salt="s", template=template
    )


def completion(**body: Any) -> dict[str, Any]:
    return forwarded_completion({"model": "m", "prompt": "p", **body}, internal="i", salt="s")


def test_the_gate_sets_model_salt_and_template() -> None:
    assert chat("t") == {
        "model": "i",
        "messages": MESSAGES,
        "cache_salt": "s",
        "chat_template": "t",
    }
    assert chat() == {"model": "i", "messages": MESSAGES, "cache_salt": "s"}
    assert completion() == {"model": "i", "prompt": "p", "cache_salt": "s"}


def test_streams_always_report_their_tokens_to_the_gate() -> None:
    assert chat(stream=True)["stream_options"] == {"include_usage": True}
    assert chat(stream=True, stream_options={"include_usage": False})["stream_options"] == {
        "include_usage": True
    }
    assert "stream_options" not in chat(stream=False, stream_options={"include_usage": True})
    assert wants_usage({"stream_options": {"include_usage": True}})
    assert not wants_usage({"stream_options": None})


def test_usual_requests_pass() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    body: dict[str, Any] = {
        "temperature": 0.5,
        "tools": tools,
        "tool_choice": "auto",
        "n": 1,
        "stop": ["x"],
    }
    assert chat(**body).items() >= body.items()
    assert chat(chat_template_kwargs={"enable_thinking": False})
    parts = [{"type": "text", "text": "hello"}]
    calls: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": []}
    assert chat(messages=[{"role": "user", "content": parts}, calls])
    assert completion(prompt=[1, 2, 3])


def test_null_is_as_if_a_field_were_not_set() -> None:
    assert chat(n=None, stream_options=None, chat_template_kwargs=None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("n", 0),
        ("n", True),
        ("stream", "yes"),
        ("stream_options", {"continuous_usage_stats": True}),
        ("messages", "hello"),
        ("messages", [{"role": "user", "content": 1}]),
    ],
)
def test_values_that_the_gate_depends_on_are_checked(name: str, value: Any) -> None:
    with pytest.raises(BadRequest, match=f"^{name}: expected") as raised:
        chat(**{name: value})
    assert raised.value.field == name


def test_no_field_of_the_lists_is_one_that_the_gate_sets() -> None:
    own = {"chat_template", "cache_salt"}
    assert not own & (CHAT | COMPLETION)
