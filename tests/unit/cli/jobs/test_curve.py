"""``ftj curve``: the losses of the ledger, as a plot, as CSV, as JSON, as SVG and as PNG."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image
from tests.unit.cli.jobs.conftest import Run

from clidocs.example_jobs import EARLIER

Job = Callable[[str], dict[str, Any]]


@pytest.mark.parametrize("columns", [40, 120, None])
def test_the_losses_of_the_present_revision_are_plotted(run: Run, columns: int | None) -> None:
    code, text, err = run("curve", "velmora", columns=columns)
    assert (code, err) == (0, "")
    lines = text.splitlines()
    assert 35 < max(map(len, lines)) <= (columns or 80)
    assert any("⣿ training loss" in line for line in lines)
    assert any("o held-out loss" in line for line in lines)
    assert any(line.split()[:2] == ["step", "1"] and line.endswith("450") for line in lines)


def test_two_revisions_are_compared(run: Run) -> None:
    code, text, _ = run("curve", "velmora", "88d82457", EARLIER)
    assert code == 0
    for mark, name in zip("⣿oxx"[:2], ("88d82457", EARLIER), strict=True):
        assert f"{mark} {name} training loss" in text
    code, text, _ = run("curve", "velmora", "88d82457", EARLIER, "-o", "json")
    found = json.loads(text)["revisions"]
    assert [each["revision"] for each in found] == ["88d82457", EARLIER]
    assert found[0]["series"]["loss"][0] == [1, pytest.approx(3.4, abs=0.2)]
    assert found[0]["live"] is False


def test_csv_has_a_line_per_step(run: Run) -> None:
    code, text, _ = run("curve", "velmora", "--csv", columns=None)
    assert code == 0
    head, first, *_, last = text.splitlines()
    assert head == "revision,step,loss,evalLoss,learningRate,tokensPerSecond"
    assert first.startswith("88d82457,1,3.")
    assert last == "88d82457,450,,1.931,0.0,3140.0"


def test_svg_is_a_document(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "loss.svg"
    assert run("curve", "velmora", "--svg", str(path))[0] == 0
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == "FineTuneJob velmora"
    assert {"training loss", "held-out loss", "step 1", "450"} <= set(texts)
    code, _, err = run("curve", "velmora", "--svg", str(tmp_path / "absent" / "loss.svg"))
    assert code == 1
    assert "cannot be written (No such file or directory): set --svg to another path" in err


def test_png_of_two_revisions_is_a_picture(run: Run, tmp_path: Path) -> None:
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    code, text, _ = run("curve", "velmora", "--png", str(one), "--csv", columns=None)
    assert (code, text.splitlines()[0][:8]) == (0, "revision")
    assert run("curve", "velmora", "88d82457", EARLIER, "--png", str(two))[0] == 0
    for path in (one, two):
        with Image.open(path) as picture:
            assert (picture.format, picture.size) == ("PNG", (1600, 840))
    assert one.read_bytes() != two.read_bytes()
    code, _, err = run("curve", "velmora", "--png", str(tmp_path))
    assert code == 1
    assert "cannot be written (Is a directory): set --png to another path" in err
    code, text, err = run("curve", "billing", "--png", str(tmp_path / "none.png"))
    assert (code, text) == (1, "")
    assert "has not ended, but no pod of it runs" in err
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("billing",), 1, "training of revision 0f41aa9e has not ended, but no pod of it runs"),
        (("velmora", "absent"), 1, "has no revision absent: name one of "),
        (("nothing",), 1, "FineTuneJob nothing does not exist"),
        (("velmora", "--csv", "-o", "json"), 2, "exclude each other"),
    ],
)
def test_a_curve_that_cannot_be_shown_is_explained(
    run: Run, arguments: tuple[str, ...], code: int, words: str
) -> None:
    found, out, err = run("curve", *arguments)
    assert (found, out) == (code, "")
    assert words in err
    assert err.count("\n") == 1


def test_points_that_no_training_reports_are_not_plotted(
    run: Run, job: Job, tmp_path: Path
) -> None:
    """A status that anybody wrote, for example in a backup that was restored."""
    huge = [[1, 1.7e308], [2, -1.7e308], [10**300, 1.0]]
    history = {"loss": [*huge, [3, 2.0], [4, 1.5]]}
    job("velmora")["status"]["revisions"][-1]["artifacts"] = {"lossHistory": history}
    code, text, err = run("curve", "velmora", "--svg", str(tmp_path / "a.svg"))
    assert (code, err) == (0, "")
    assert "step 3" in text


def test_a_job_without_a_status_has_no_curve(run: Run, job: Job) -> None:
    del job("velmora")["status"]
    code, _, err = run("curve", "velmora")
    assert code == 1
    assert "has not started a revision yet" in err


@pytest.mark.parametrize("outcome", ["Starting", "Running"])
def test_a_training_whose_pod_does_not_run_is_named(run: Run, job: Job, outcome: str) -> None:
    record = job("velmora")["status"]["revisions"][-1]
    record["artifacts"] = {}
    record["stages"] = [{"stage": "train", "attempt": 1, "outcome": outcome}]
    code, out, err = run("curve", "velmora")
    assert (code, out) == (1, "")
    assert "training of revision 88d82457 has not ended, but no pod of it runs now" in err
    assert "ftj why velmora" in err


def test_a_revision_that_has_not_started_is_named(run: Run, job: Job) -> None:
    job("velmora")["status"]["revision"] = "0a1b2c3d"
    assert "has no loss history of revision 0a1b2c3d" in run("curve", "velmora")[2]


@pytest.mark.parametrize(
    "series",
    [
        {"loss": [[1, "\x1b[2J"]]},
        {"loss": "x"},
        {"\x1b": [[1, 1.0]]},
        {"loss": [[1, float("nan")]]},
        "\x1b",
        {"loss": [[1, 1.0]] * 5000},
        [7],
    ],
)
def test_a_history_of_another_form_is_none(run: Run, job: Job, series: Any) -> None:
    job("velmora")["status"]["revisions"][-1]["artifacts"] = {"lossHistory": series}
    code, out, err = run("curve", "velmora")
    assert (code, out) == (1, "")
    assert "has no loss history of revision 88d82457" in err


def test_a_revision_with_control_characters_is_escaped(run: Run, job: Job) -> None:
    job("velmora")["status"]["revisions"][-1]["revision"] = "\x1b[2J"
    for more in ((), ("--csv",)):
        code, text, _ = run("curve", "velmora", "\x1b[2J", EARLIER, *more)
        assert code == 0
        assert "\\x1b[2J" in text


def test_a_training_of_one_step_is_plotted(run: Run, job: Job) -> None:
    one = {"loss": [[1, 2.0]], "evalLoss": [[1, 2.5]]}
    job("velmora")["status"]["revisions"][-1]["artifacts"] = {"lossHistory": one}
    code, text, _ = run("curve", "velmora")
    assert code == 0
    assert "2.5" in text
