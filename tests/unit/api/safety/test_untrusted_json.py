"""JSON of others: the values of the parser of Python, unless a text is nested too deeply."""

import contextlib
import gc
import json
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.safety import untrusted_json
from finetune_api.safety.untrusted_json import DEEPEST, NestedTooDeeply

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='[]{}"\\a\n ä'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='[{"\\'), inner),
)


@given(VALUES, st.sampled_from([None, 1]), st.booleans())
def test_values_are_those_of_the_parser_of_python(
    value: Any, indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert untrusted_json.parse(text) == value
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert untrusted_json.parse(text.encode(encoding)) == value


@pytest.mark.parametrize(("opening", "inner", "closing"), [("[", "", "]"), ('{"[": ', "1", "}")])
def test_the_deepest_text(opening: str, inner: str, closing: str) -> None:
    def text(levels: int) -> str:
        return f" {opening * levels}{inner}{closing * levels}\n"

    assert untrusted_json.parse(text(DEEPEST)) == json.loads(text(DEEPEST))
    for levels in (DEEPEST + 1, 100_000):
        with pytest.raises(NestedTooDeeply):
            untrusted_json.parse(text(levels))
        with pytest.raises(NestedTooDeeply):
            untrusted_json.parse(text(levels).encode())
        with pytest.raises(NestedTooDeeply):
            untrusted_json.parse(opening * levels)


@pytest.mark.parametrize("text", ["[" * 50 + "]" * 50, '{"a": ["' + "[" * 1000 + '\\"{"]}', "[1] "])
def test_many_brackets_are_not_deep(text: str) -> None:
    assert untrusted_json.parse(f"[{', '.join([text] * 500)}]") == [json.loads(text)] * 500


@pytest.mark.parametrize(
    "text", ["]" * 1000 + "[", '"' + "[" * 1000, "[1]" + "[" * 1000, "x" * 300]
)
def test_other_texts_are_refused_as_by_python(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        untrusted_json.parse(text)


def test_the_depth_is_that_of_one_value() -> None:
    text = '1, {"a": []}, ' + "[" * 1000
    untrusted_json.check_depth(text)
    untrusted_json.check_depth(text, text.index("{"))
    with pytest.raises(NestedTooDeeply):
        untrusted_json.check_depth(text, text.index("[["))


def test_a_string_without_an_end_takes_no_quadratic_time() -> None:
    started = time.process_time()
    with pytest.raises(json.JSONDecodeError):
        untrusted_json.parse("[" * 150 + '["' + '\\"' * 1_000_000 + "[" * 100)
    assert time.process_time() - started < 5


def test_a_deep_text_fails_in_no_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries add callbacks to the garbage collector, which runs at any depth."""
    failed: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", failed.append)

    def call(levels: int) -> int:
        return levels and call(levels - 1)

    def callback(*_: object) -> None:
        call(3)

    threshold = gc.get_threshold()
    gc.callbacks.append(callback)
    gc.set_threshold(1)
    try:
        for levels in range(500, sys.getrecursionlimit()):
            with contextlib.suppress(ValueError):
                untrusted_json.parse("[" * levels + "]" * levels)
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(callback)
    assert not failed
