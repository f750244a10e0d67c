"""Recordings of a terminal: timings, replay, and the pictures of the README."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from recording import svg, terminal
from recording.quickstart import ASSETS, CAST, MARKED, NAME, PICTURE, README, pictures
from recording.terminal import Event, Shown

DEV = Path(__file__).parents[3] / "dev"
TEXT = "{http://www.w3.org/2000/svg}text"


def test_a_command_is_recorded_with_timings_and_without_folders(tmp_path: Path) -> None:
    recording = tmp_path / "a.cast"
    script = f"echo {Path.home()}/x; pwd; echo $MAKELEVEL; sleep 0.2; stty size"
    code = (
        "import sys, pathlib; from recording import recorder;"
        "sys.exit(recorder.record(pathlib.Path(sys.argv[1]), ['sh', '-c', sys.argv[2]]))"
    )
    words = [sys.executable, "-c", code, str(recording), f"{script}; exit 3"]
    env = {"PYTHONPATH": str(DEV), "PATH": "/usr/bin:/bin", "MAKELEVEL": "1"}
    done = subprocess.run(words, env=env, cwd=tmp_path, check=False)
    assert done.returncode == 3
    header, events = terminal.read(recording)
    assert header["version"] == 2
    output = "".join(text for _, text in events)
    assert output == f"~/x\r\n.\r\n\r\n{header['height']} {header['width']}\r\n"
    assert events[-1][0] >= 0.2
    assert [at for at, _ in events] == sorted(at for at, _ in events)


def test_a_row_that_is_rewritten_has_several_texts() -> None:
    events = [(0.0, "one\r\n"), (1.0, "10 %"), (2.0, "\r\x1b[K20 %"), (3.0, "\r\x1b[Kdone\r\n")]
    assert terminal.replay(events, columns=80) == [
        Shown(row=0, text="one", since=0.0),
        Shown(row=1, text="10 %", since=1.0, until=2.0),
        Shown(row=1, text="20 %", since=2.0, until=3.0),
        Shown(row=1, text="done", since=3.0),
    ]


def test_a_text_that_is_shown_too_shortly_is_left_out() -> None:
    events = [(1.0, "10 %"), (1.01, "\r11 %"), (2.0, "\r12 %")]
    assert terminal.replay(events, columns=80, shortest=0.1) == [
        Shown(row=0, text="11 %", since=1.0, until=2.0),
        Shown(row=0, text="12 %", since=2.0),
    ]


def test_a_long_line_is_cut() -> None:
    events = [(0.0, "abcdefgh\r\nabcde")]
    assert [each.text for each in terminal.replay(events, columns=5)] == ["abcd…", "abcde"]


def test_a_carriage_return_alone_overwrites() -> None:
    (shown,) = terminal.replay([(0.0, "abcdef\rxy")], columns=80)
    assert shown.text == "xycdef"


def test_long_pauses_are_cut_and_short_ones_kept() -> None:
    events: list[Event] = [(0.5, "a"), (100.5, "b"), (101.0, "c"), (400.0, "d")]
    times = [at for at, _ in terminal.compressed(events, 10.0)]
    assert times[-1] == pytest.approx(10.0, abs=0.01)
    assert times[0] == pytest.approx(0.5)
    assert times[2] - times[1] == pytest.approx(0.5)
    assert times[1] - times[0] == pytest.approx(times[3] - times[2])


def test_a_short_recording_keeps_its_times() -> None:
    events: list[Event] = [(0.5, "a"), (1.5, "b")]
    assert terminal.compressed(events, 10.0) == events


@pytest.mark.parametrize(
    "events",
    [
        [(0.0, "a\nDone in 3 minutes\nrest\n"), (1.0, "more")],
        [(0.0, "a\nDone"), (1.0, " in 3 minutes\nrest"), (2.0, "more\n")],
    ],
    ids=["in-one-piece", "in-two-pieces"],
)
def test_the_recording_is_cut_after_the_last_line(events: list[Event]) -> None:
    kept = terminal.until(events, "Done in")
    assert "".join(text for _, text in kept) == "a\nDone in 3 minutes"


def test_a_picture_has_every_text_once_and_scrolls() -> None:
    shown = [Shown(row=row, text=f"row <{row}>", since=float(row)) for row in range(8)]
    drawn = svg.draw(shown, title="t", columns=80, rows=5, theme=svg.THEMES["dark"])
    texts = [each.text for each in ElementTree.fromstring(drawn).iter(TEXT)]
    assert texts == [f"row <{row}>" for row in range(8)]
    assert f"translateY({-3 * svg.HEIGHT}px)" in drawn
    assert f"translateY({-4 * svg.HEIGHT}px)" not in drawn


def test_pictures_of_a_recording_differ_in_color_alone(tmp_path: Path) -> None:
    recording = tmp_path / "a.cast"
    header = {"version": 2, "width": 80, "height": 10, "command": "make run"}
    events = [[0.1, "o", "==> start\r\n"], [0.2, "i", "typed"], [0.3, "o", "Done in 1 s\r\nx\r\n"]]
    recording.write_text("\n".join(json.dumps(line) for line in [header, *events]) + "\n")
    drawn = pictures(recording)
    assert drawn.keys() == {"light", "dark"}
    for picture in drawn.values():
        texts = [each.text for each in ElementTree.fromstring(picture).iter(TEXT)]
        assert texts == ["$ make run", "==> start", "Done in 1 s"]
    assert drawn["light"] != drawn["dark"]


def test_the_readme_has_the_place_for_the_picture() -> None:
    assert len(MARKED.findall(README.read_text(encoding="utf-8"))) == 1


def test_the_readme_shows_pictures_that_are_rendered_from_the_recording() -> None:
    assert (PICTURE in README.read_text(encoding="utf-8")) == CAST.exists()
    for name, picture in pictures(CAST).items() if CAST.exists() else ():
        path = ASSETS / f"{NAME}-{name}.svg"
        assert path.read_text(encoding="utf-8") == picture, "run python3 dev/recording render"
