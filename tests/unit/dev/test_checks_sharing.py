"""Lanes of one suite share its test files: each runs once, the longest first."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from checks import lanes, sharing
from cluster import paths

FILES = ("test_long.py", "test_new.py", "test_short.py")
TEST = """
import os, pathlib, time
def test_a(): pathlib.Path("ran").open("a").write(f"{__name__}-a-{os.environ['LANE']} ")
def test_b(): time.sleep(0.2); pathlib.Path("ran").open("a").write(f"{__name__}-b ")
"""


def lane(folder: Path, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    claims, record = folder / "claims", folder / "durations.json"
    claims.mkdir(exist_ok=True)
    record.write_text(json.dumps({"test_short.py": 1.0, "test_long.py": 9.0}))
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "checks.sharing", "--rootdir=.", *arguments],
        cwd=folder,
        env={
            **os.environ,
            **sharing.variables(claims, record),
            "PYTHONPATH": str(paths.REPO / "dev"),
            "LANE": name,
            # Options of the outer run; the inner one has no conftest that knows them.
            "PYTEST_ADDOPTS": "",
        },
        stdout=subprocess.DEVNULL,
    )


def suite(folder: Path) -> Path:
    for name in FILES:
        (folder / name).write_text(TEST)
    (folder / "pytest.ini").write_text("[pytest]\n")
    return folder


def test_one_lane_runs_every_file_the_longest_first(tmp_path: Path) -> None:
    assert lane(suite(tmp_path), "1").wait(60) == 0
    ran = (tmp_path / "ran").read_text().split()
    assert ran == [
        f"test_{name}-{test}" for name in ("new", "long", "short") for test in ("a-1", "b")
    ]


def test_two_lanes_run_every_test_once(tmp_path: Path) -> None:
    suite(tmp_path)
    both = [lane(tmp_path, name) for name in ("1", "2")]
    assert [each.wait(60) for each in both] == [0, 0]
    ran = [
        each.removesuffix("-1").removesuffix("-2")
        for each in (tmp_path / "ran").read_text().split()
    ]
    assert sorted(ran) == sorted(f"{name[:-3]}-{test}" for name in FILES for test in "ab")


def test_a_record_that_cannot_be_read_is_no_error(tmp_path: Path) -> None:
    record = tmp_path / "durations.json"
    assert sharing.recorded(record) == {}
    for text in ("", "[]", '{"a": "b"}', '{"a": null}'):
        record.write_text(text)
        assert sharing.recorded(record) == {}
    record.write_text('{"a": 1}')
    assert sharing.recorded(record) == {"a": 1.0}


def test_a_lane_is_idle_while_it_waits_and_after_its_end() -> None:
    lanes.finished.clear()
    waiting = lanes.Lane(name="waits")
    waiting.works = [waiting.waiting(lambda: time.sleep(0.2)), lambda: time.sleep(0.1)]
    lanes.run(waiting, lanes.Lane(name="works", works=[lambda: time.sleep(0.6)]))
    (first, busy, idle), (second, all_of_it, none) = lanes.finished
    assert (first, second) == ("waits", "works")
    assert busy >= 0.1
    assert idle >= 0.2
    assert all_of_it >= 0.6
    assert busy + idle == pytest.approx(all_of_it + none)
    lanes.finished.clear()


def test_a_left_out_file_between_two_folders_is_no_obstacle(tmp_path: Path) -> None:
    for number, folder in enumerate(("a", "b", "c")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"test_{number}.py").write_text("def test_it(): pass\n")
        (tmp_path / folder / f"test_{number}_more.py").write_text("def test_it(): pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    claims = tmp_path / "claims"
    claims.mkdir()
    for name in ("a__test_0_more.py", "b__test_1.py"):
        (claims / f"{name}.claimed").touch()
    assert lane(tmp_path, "1").wait(60) == 0
    assert len(list(claims.iterdir())) == 6
