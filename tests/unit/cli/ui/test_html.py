"""Elements become HTML in which no text is markup."""

from typing import Any

import pytest

from finetune_cli.plotting.curves import Curve
from finetune_cli.ui.pages import charts
from finetune_cli.ui.pages.html import h, render, url


def test_text_and_attributes_are_escaped() -> None:
    element = h("p", "<b>&", title="\"'<>", class_="x")
    escaped = "&lt;b&gt;&amp;"
    assert render(element) == f'<p title="&quot;&#x27;&lt;&gt;" class="x">{escaped}</p>'


def test_control_characters_are_shown() -> None:
    assert render("a\u202eb\x00c\n\td") == "a\\u202eb\\x00c\n\td"


def test_addresses_are_below_the_prefix() -> None:
    address = url("jobs", "../x", "a b", text="<&", empty="")
    link = render(h("a", "x", href=address), "/secret")
    assert link == '<a href="/secret/jobs/..%2Fx/a%20b?text=%3C%26">x</a>'


@pytest.mark.parametrize("name", ["href", "src", "action", "data_stream"])
def test_text_is_no_address(name: str) -> None:
    with pytest.raises(TypeError, match="takes a Url"):
        h("a", **{name: "javascript:alert(1)"})


@pytest.mark.parametrize(
    ("tag", "children", "attributes"),
    [
        ("script", ("alert(1)",), {}),
        ("style", ("a {}",), {}),
        ("p", (), {"onclick": "alert(1)"}),
        ("p", (), {"style": "x"}),
        ("iframe", (), {"srcdoc": "x"}),
        ("p", (), {"a b": "x"}),
        ("p", (), {"x><script": "x"}),
    ],
)
def test_code_cannot_be_written(tag: str, children: tuple[str], attributes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has no"):
        h(tag, *children, **attributes)


def test_elements_may_be_lists_numbers_and_nothing() -> None:
    assert render(h("ul", [h("li", 1), None, h("li", 2.5)])) == "<ul><li>1</li><li>2.5</li></ul>"
    assert render(h("input", required=True, checked=False, name=None)) == "<input required>"


def test_curves_lie_within_their_chart() -> None:
    points = [(1, 2.0), (50, 1.0), (100, 0.5)]
    shown = [Curve(name="a", points=points), Curve(name="b", points=(), measured=True)]
    chart = render(charts.curves(shown, "Losses"))
    assert 'points="56.0,12.0 378.7,158.7 708.0,232.0"' in chart
    assert chart.count("<polyline") == 1
    assert charts.curves([Curve(name="a", points=())], "Losses") is None


@pytest.mark.parametrize(
    ("value", "limit", "kind"), [(0.0, 0.0, "good"), (1.0, 2.0, "good"), (2.0, 1.0, "bad")]
)
def test_value_is_compared_with_its_limit(value: float, limit: float, kind: str) -> None:
    assert f'class="bar {kind}"' in render(
        charts.gauge({"distance": str(value), "tolerance": str(limit)})
    )
