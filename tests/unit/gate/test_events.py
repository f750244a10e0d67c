"""The events of a stream, however they arrive."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_gate.events import LONGEST, Events, Tokens, TooLong, tokens_of

INTERNAL = "a" * 64 + "-0123456789abcdef"
PUBLIC = "acme/support"


def event(**fields: Any) -> bytes:
    text = json.dumps({"model": INTERNAL, **fields}, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


def choice(text: str) -> bytes:
    return event(choices=[{"text": text}])


USAGE = event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 3})
DONE = b"data: [DONE]\n\n"


def fed(*parts: bytes, show_usage: bool = False) -> tuple[bytes, Events]:
    events = Events(internal=INTERNAL, public=PUBLIC, show_usage=show_usage)
    return b"".join(events.feed(part) for part in parts), events


def public(data: bytes) -> bytes:
    return data.replace(INTERNAL.encode(), PUBLIC.encode())


TEXTS = st.lists(st.text(max_size=8) | st.just('"usage":{') | st.just("\n\n"), max_size=5)


@given(texts=TEXTS, cuts=st.lists(st.integers(0, 2000)), show_usage=st.booleans())
def test_any_division_gives_the_same_events(
    texts: list[str], cuts: list[int], show_usage: bool
) -> None:
    events = b"".join(map(choice, texts))
    whole = events + USAGE + DONE
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    parts = [whole[a:b] for a, b in itertools.pairwise(places)]
    found, state = fed(*parts, show_usage=show_usage)
    assert found == public(whole if show_usage else events + DONE)
    assert INTERNAL.encode() not in found
    assert state.tokens == Tokens(prompt=7, completion=3)
    assert state.is_complete


def test_only_complete_events_are_passed_on() -> None:
    whole = choice("hello")
    found, state = fed(whole, whole[:-1])
    assert found == public(whole)
    assert not state.is_complete


def test_an_event_with_choices_and_usage_is_passed_on() -> None:
    both = event(choices=[{"text": "x"}], usage={"prompt_tokens": 1, "completion_tokens": 1})
    assert fed(both)[0] == public(both)


def test_a_name_with_quotation_marks_stays_json() -> None:
    events = Events(internal=INTERNAL, public='a"b', show_usage=False)
    found = events.feed(choice("x"))
    assert json.loads(found.removeprefix(b"data: "))["model"] == 'a"b'


def test_an_endless_event_is_not_held() -> None:
    events = Events(internal=INTERNAL, public=PUBLIC, show_usage=False)
    assert events.feed(b"x" * LONGEST) == b""
    with pytest.raises(TooLong):
        events.feed(b"x")


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        (b'{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}', (7, 3)),
        (
            b'{"usage": {"prompt_tokens": 7, "completion_tokens": 3}, "prompt_logprobs": null}',
            (7, 3),
        ),
        (
            json.dumps(
                {"text": '"usage":{"prompt_tokens":9}', "usage": {"prompt_tokens": 7}}
            ).encode(),
            (7, 0),
        ),
        (
            json.dumps(
                {"usage": {"prompt_tokens": 7}, "text": '"usage":{"prompt_tokens":9}'}
            ).encode(),
            (7, 0),
        ),
        (b'{"usage":{"prompt_tokens":7', (0, 0)),
        (b'{"usage":null}', (0, 0)),
        (b"", (0, 0)),
    ],
)
def test_the_tokens_of_an_answer_are_found_without_parsing_it(
    answer: bytes, tokens: tuple[int, int]
) -> None:
    found = tokens_of(answer)
    assert (found.prompt, found.completion) == tokens
