"""Masked text, in the forms in which a library may print a credential.

tests/security attacks real processes; these cases name each form.
"""

import base64
import io
import json
from urllib.parse import quote, quote_plus

import pytest

from finetune_api.safety import redaction
from finetune_api.safety.redaction import MASK, SHORTEST_VALUE, mask, mask_all, one_line

TOKEN = 'hf_a+b/c="d"\nsecond-line'
FORMS = {
    "raw": TOKEN,
    "repr": repr(TOKEN),
    "JSON": json.dumps(TOKEN),
    "percent": quote(TOKEN, safe=""),
    "plus": quote_plus(TOKEN),
    "base64": base64.b64encode(TOKEN.encode()).decode(),
    "first line": TOKEN.splitlines()[0],
    "last line": TOKEN.splitlines()[1],
}
BY_SYNTAX = {
    "user information": ("https://user:hunter22@example.com/a", "hunter22"),
    "signature": ("https://example.com/a?X-Amz-Signature=0123abcd&b=1", "0123abcd"),
    "token": ("GET /a?access_token=abcdefgh", "abcdefgh"),
    "bearer": ("Authorization: Bearer abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnop"),
}


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_HF_TOKEN", TOKEN)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_credential_is_masked(form: str) -> None:
    masked = mask(f"before {FORMS[form]} after")
    assert MASK in masked
    assert FORMS[form] not in masked
    assert masked.startswith("before ")
    assert masked.endswith(" after")


@pytest.mark.parametrize("case", BY_SYNTAX)
def test_credentials_of_others_are_masked_by_their_syntax(case: str) -> None:
    text, secret = BY_SYNTAX[case]
    assert MASK in mask(text)
    assert secret not in mask(text)


@pytest.mark.parametrize("form", ["hf_a%2Bb%2Fc%3Dd", "hf_a%2bb%2fc%3dd"])
def test_both_cases_of_percent_encoding_are_masked(
    monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setenv("MODEL_HF_TOKEN", "hf_a+b/c=d")
    assert mask(f"GET /{form}?b") == f"GET /{MASK}?b"


@pytest.mark.parametrize(
    ("length", "masked"), [(SHORTEST_VALUE - 1, False), (SHORTEST_VALUE, True)]
)
def test_values_that_are_too_short_for_a_credential_stay(
    monkeypatch: pytest.MonkeyPatch, length: int, masked: bool
) -> None:
    value = "q" * length
    monkeypatch.setenv("MODEL_HF_TOKEN", value)
    assert (value not in mask(f"a {value} b")) is masked


def test_text_without_credentials_stays() -> None:
    assert mask("step 1/96: loss 0.5") == "step 1/96: loss 0.5"


def test_nested_values_are_masked_with_their_keys() -> None:
    line = TOKEN.splitlines()[1]
    assert mask_all({line: [line, {"a": (line, 7, None)}]}) == {
        MASK: [MASK, {"a": [MASK, 7, None]}]
    }


def test_text_is_masked_before_it_is_cut() -> None:
    # The cut would leave the beginning of the token, which a mask no longer finds.
    text = "x" * 190 + TOKEN.splitlines()[1]
    cut = one_line(text, 200)
    assert len(cut) <= 200
    assert "second" not in cut


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_text_controls_no_terminal(stream: type[io.StringIO]) -> None:
    """A file name or an error of a library may contain sequences that hide or forge lines."""
    out = stream()
    masked = redaction.MaskedStream(out)
    masked.write("a\x1b[2K\x1b[1A\x1b]0;title\x07\u202e\tb\r\n")
    assert out.getvalue() == "a\\x1b[2K\\x1b[1A\\x1b]0;title\\x07\\u202e\tb\r\n"


def test_a_progress_bar_controls_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789abcdef")
    out = Terminal()
    masked = redaction.MaskedStream(out)
    masked.write("begun")
    canvas = redaction.Canvas(masked)  # type: ignore[arg-type]
    canvas.write("\r\x1b[K50 % hf_0123456789abcdef")
    assert out.getvalue() == f"begun\r\x1b[K50 % {redaction.MASK}"
    assert canvas.isatty()
    redaction.Canvas(out).write("\x1b[K")
    assert out.getvalue().endswith("\x1b[K")
