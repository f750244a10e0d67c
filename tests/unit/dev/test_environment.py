"""The environment that a command begins with, and the folder of Python's packages."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from checks import environment
from cluster import cli, lifecycle, packages, shell

PROXY = "http://proxy.example:3128"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    for name in VARIABLES:
        # Set first, so that what prepare() makes of it is taken back.
        for variable in (name, name.lower()):
            monkeypatch.setenv(variable, "")
            monkeypatch.delenv(variable)


def exempt() -> list[str]:
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"]
    return os.environ["NO_PROXY"].split(",")


def test_every_command_finds_what_lies_in_sbin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/mine:/usr/bin:/bin")
    seen: list[str] = []
    monkeypatch.setattr(lifecycle, "down", lambda: seen.append(os.environ["PATH"]))
    monkeypatch.setattr(sys, "argv", ["dev/cluster", "down"])
    assert cli.main() == 0
    assert seen == ["/mine:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin"]


def test_the_path_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    shell.prepare()
    once = os.environ["PATH"]
    shell.prepare()
    assert os.environ["PATH"] == once
    monkeypatch.delenv("PATH")
    shell.prepare()
    assert "" not in os.environ["PATH"].split(os.pathsep)


def test_behind_a_proxy_the_cluster_is_reached_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    shell.prepare()
    assert exempt() == [
        "localhost",
        "127.0.0.1",
        "10.97.0.1",
        "10.244.0.0/24",
        "10.96.0.0/16",
        ".svc",
        ".cluster.local",
    ]


def test_what_the_user_exempts_is_kept_under_both_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", PROXY)
    monkeypatch.setenv("NO_PROXY", "corp.example, localhost")
    monkeypatch.setenv("no_proxy", ".intern")
    shell.prepare()
    assert exempt()[:4] == ["corp.example", "localhost", ".intern", "127.0.0.1"]
    once = exempt()
    shell.prepare()
    assert exempt() == once
    said = lifecycle.exports()[-1]
    script = f'unset NO_PROXY no_proxy; {said}; printf \'%s %s\' "$NO_PROXY" "$no_proxy"'
    shown = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.split() == [",".join(once)] * 2


def test_who_exempts_everything_and_who_has_no_proxy_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shell.prepare()
    assert "NO_PROXY" not in os.environ
    assert not any("NO_PROXY" in line for line in lifecycle.exports())
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("no_proxy", "*")
    shell.prepare()
    assert "NO_PROXY" not in os.environ
    assert os.environ["no_proxy"] == "*"


def test_whoever_starts_the_cluster_by_itself_is_prepared_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(packages, "missing", list)
    packages.ensure()
    assert "/usr/sbin" in os.environ["PATH"].split(os.pathsep)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Path]]:
    """Make the environment in a folder of that name; returns all that were made until now."""
    folders: list[Path] = []

    def logged(command: list[str], *_: object, **__: object) -> None:
        if "venv" in command:
            folder = Path(command[-1])
            folder.mkdir(parents=True)
            folders.append(folder)

    def ensure(name: str) -> list[Path]:
        monkeypatch.setattr(environment, "FOLDER", tmp_path / name / ".venv")
        environment.ensure()
        return folders

    monkeypatch.setattr(environment, "LOG", tmp_path / "logs" / "venv.log")
    monkeypatch.setattr(environment, "uv", lambda: "uv")
    monkeypatch.setattr(environment, "logged", logged)
    return ensure


def test_a_folder_that_has_moved_gets_a_new_environment(
    made: Callable[[str], list[Path]], tmp_path: Path
) -> None:
    made("repo")
    assert made("repo") == [tmp_path / "repo" / ".venv"]
    shutil.move(tmp_path / "repo", tmp_path / "my repo")
    assert made("my repo") == [tmp_path / "repo" / ".venv", tmp_path / "my repo" / ".venv"]
    assert len(made("my repo")) == 2
