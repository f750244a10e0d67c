"""The recording of ``make run``, its pictures, and their place in the README."""

from __future__ import annotations

import re
from pathlib import Path

from recording import recorder, svg, terminal

REPOSITORY = Path(__file__).resolve().parents[2]
ASSETS = REPOSITORY / "docs" / "assets"
README = REPOSITORY / "README.md"
NAME = "quickstart"
CAST = ASSETS / f"{NAME}.cast"
TITLE = "make run: from nothing to a tuned model that answers"
LAST = "Done in "
SECONDS = 30.0
"""Duration of the animation in seconds; ``make run`` takes minutes."""
MARKED = re.compile(r"(<!-- recording: begin -->\n).*?(<!-- recording: end -->)", re.DOTALL)
PICTURE = f"""<picture>
  <source media="(prefers-color-scheme: dark)" srcset="docs/assets/{NAME}-dark.svg">
  <img src="docs/assets/{NAME}-light.svg" alt="{TITLE}">
</picture>
"""


def pictures(recording: Path) -> dict[str, str]:
    """Return the pictures of a recording by the name of their theme."""
    header, events = terminal.read(recording)
    columns, rows = int(str(header["width"])), int(str(header["height"]))
    # Typed before anything was printed.
    typed = [(0.0, f"$ {header['command']}\r\n")]
    moved = terminal.compressed(terminal.until(events, LAST), SECONDS)
    shown = terminal.replay([*typed, *moved], columns=columns)
    return {
        name: svg.draw(shown, title=TITLE, columns=columns, rows=rows, theme=theme)
        for name, theme in svg.THEMES.items()
    }


def render() -> None:
    """Write the pictures and show them in the README."""
    for name, picture in pictures(CAST).items():
        (ASSETS / f"{NAME}-{name}.svg").write_text(picture, encoding="utf-8")
    text = README.read_text(encoding="utf-8")
    README.write_text(MARKED.sub(rf"\g<1>{PICTURE}\g<2>", text), encoding="utf-8")


def record() -> int:
    """Record ``make run``; return its exit status."""
    return recorder.record(CAST, ["make", "run"])
