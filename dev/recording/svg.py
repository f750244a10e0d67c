"""Draw a replayed recording as an animated SVG, with CSS alone: it also moves in an ``<img>``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from recording.terminal import Shown

WIDTH, HEIGHT, SIZE = 7.83, 18, 13
MARGIN, BAR = 16, 34
FONT = 'ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace'
HOLD_SECONDS = 6.0
"""Seconds for which the last picture stays before the animation restarts."""


@dataclass(frozen=True, kw_only=True)
class Theme:
    """The colors of a picture."""

    background: str
    frame: str
    text: str
    dim: str
    accent: str
    good: str


THEMES = {
    "light": Theme(
        background="#ffffff",
        frame="#d0d7de",
        text="#1f2328",
        dim="#656d76",
        accent="#1f4fd8",
        good="#116329",
    ),
    "dark": Theme(
        background="#0d1117",
        frame="#30363d",
        text="#e6edf3",
        dim="#848d97",
        accent="#79a6ff",
        good="#56d364",
    ),
}
STYLES = (
    (re.compile(r"^\$ "), "p"),
    (re.compile(r"^==> "), "a"),
    (re.compile(r"^ +tuned  "), "g"),
    (re.compile(r"\[#+\.*\]"), "a"),
    (re.compile(r"^ +(.*: done in |base  |dataset )"), "d"),
)
"""Classes of rows by what they contain; the first that matches counts."""


def draw(shown: Sequence[Shown], *, title: str, columns: int, rows: int, theme: Theme) -> str:
    """Return the picture: a window of ``rows`` rows, which scrolls as the terminal did."""
    length = max(line.since for line in shown) + HOLD_SECONDS
    width, height = columns * WIDTH + 2 * MARGIN, rows * HEIGHT + BAR + MARGIN
    frames, texts = [], []
    for number, line in enumerate(shown):
        frames.append(_visible(number, line, length))
        y = BAR + MARGIN + line.row * HEIGHT
        kind = next((name for pattern, name in STYLES if pattern.search(line.text)), "t")
        last = "" if line.until is None else " x"
        texts.append(
            f'<text class="{kind}{last}" style="animation-name:v{number}" x="{MARGIN}" y="{y}">'
            f"{escape(line.text)}</text>"
        )
    scroll, end = _scroll(shown, rows, length)
    newline = "\n"
    dots = "".join(f'<circle cx="{20 + 18 * n}" cy="17" r="5"/>' for n in range(3))
    return f"""<svg xmlns="http://www.w3.org/2000/svg" xml:space="preserve" role="img"
 viewBox="0 0 {width:.0f} {height}">
<title>{escape(title)}</title>
<style>
text{{font:{SIZE}px {FONT};white-space:pre;fill:{theme.text};
animation:{length:.2f}s steps(1,end) infinite}}
.p,.g{{font-weight:bold}}
.p,.a{{fill:{theme.accent}}}
.g{{fill:{theme.good}}}
.d{{fill:{theme.dim}}}
.x{{opacity:0}}
.s{{animation:s {length:.2f}s steps(1,end) infinite;transform:translateY({end}px)}}
circle{{fill:{theme.frame}}}
@media (prefers-reduced-motion:reduce){{
text,.s{{animation:none}}
}}
@keyframes s{{{scroll}}}
{newline.join(frames)}
</style>
<clipPath id="c"><rect y="{BAR}" width="{width:.0f}" height="{height - BAR - 4}"/></clipPath>
<rect x=".5" y=".5" width="{width - 1:.0f}" height="{height - 1}" rx="8"
 fill="{theme.background}" stroke="{theme.frame}"/>
{dots}
<g clip-path="url(#c)"><g class="s">
{newline.join(texts)}
</g></g>
</svg>
"""


def _visible(number: int, line: Shown, length: float) -> str:
    """Return when a text is visible, in percent of the animation."""
    steps = [f"0%{{opacity:0}}{_percent(line.since, length)}{{opacity:1}}"]
    if line.since == 0:
        steps = ["0%{opacity:1}"]
    if line.until is not None:
        steps.append(f"{_percent(line.until, length)}{{opacity:0}}")
    return f"@keyframes v{number}{{{''.join(steps)}100%{{opacity:{int(line.until is None)}}}}}"


def _scroll(shown: Sequence[Shown], rows: int, length: float) -> tuple[str, int]:
    """Return the steps by which the rows move up, and where they end, in pixels."""
    steps, top = ["0%{transform:translateY(0)}"], 0
    for line in shown:
        if line.row - rows + 1 > top:
            top = line.row - rows + 1
            moved = f"transform:translateY({-top * HEIGHT}px)"
            steps.append(f"{_percent(line.since, length)}{{{moved}}}")
    return "".join([*steps, f"100%{{transform:translateY({-top * HEIGHT}px)}}"]), -top * HEIGHT


def _percent(at: float, length: float) -> str:
    return f"{100 * at / length:.3f}%"
