"""The environment variables of each command, and the virtual environment."""

import os
import shutil
import subprocess
import sys
import venv
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
        # Set first, so that monkeypatch restores variables that prepare() sets.
        for variable in (name, name.lower()):
            monkeypatch.setenv(variable, "")
            monkeypatch.delenv(variable)


def exempt() -> list[str]:
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"]
    return os.environ["NO_PROXY"].split(",")


def test_every_command_has_sbin_on_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/mine:/usr/bin:/bin")
    recorded: list[str] = []
    monkeypatch.setattr(lifecycle, "down", lambda: recorded.append(os.environ["PATH"]))
    monkeypatch.setattr(sys, "argv", ["dev/cluster", "down"])
    assert cli.main() == 0
    assert recorded == ["/mine:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin"]


def test_prepare_is_idempotent(monkeypatch: pytest.MonkeyPatch) -> None:
    shell.prepare()
    once = os.environ["PATH"]
    shell.prepare()
    assert os.environ["PATH"] == once
    monkeypatch.delenv("PATH")
    shell.prepare()
    assert "" not in os.environ["PATH"].split(os.pathsep)


def test_cluster_addresses_are_exempt_from_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_exemptions_of_the_user_are_kept_in_both_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", PROXY)
    monkeypatch.setenv("NO_PROXY", "corp.example, localhost")
    monkeypatch.setenv("no_proxy", ".intern")
    shell.prepare()
    assert exempt()[:4] == ["corp.example", "localhost", ".intern", "127.0.0.1"]
    once = exempt()
    shell.prepare()
    assert exempt() == once
    export = lifecycle.exports()[-1]
    script = f'unset NO_PROXY no_proxy; {export}; printf \'%s %s\' "$NO_PROXY" "$no_proxy"'
    shown = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.split() == [",".join(once)] * 2


def test_no_exemptions_without_proxy_or_with_wildcard(
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


def test_ensuring_packages_prepares_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(packages, "missing", list)
    packages.ensure()
    assert "/usr/sbin" in os.environ["PATH"].split(os.pathsep)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Path]]:
    """Ensure the environment in a folder of this name; return all folders created so far."""
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


def test_moved_repository_gets_a_new_environment(
    made: Callable[[str], list[Path]], tmp_path: Path
) -> None:
    made("repo")
    assert made("repo") == [tmp_path / "repo" / ".venv"]
    shutil.move(tmp_path / "repo", tmp_path / "my repo")
    assert made("my repo") == [tmp_path / "repo" / ".venv", tmp_path / "my repo" / ".venv"]
    assert len(made("my repo")) == 2


def test_environment_can_be_made_again_by_its_own_interpreter(tmp_path: Path) -> None:
    """As in a shell in which it is activated, after a change of the constraints."""
    folder = tmp_path / ".venv"
    venv.create(folder, symlinks=True, with_pip=False)
    code = "from checks import environment; print(environment.INTERPRETER)"
    found = subprocess.run(
        [folder / "bin" / "python", "-c", code],
        env={**os.environ, "PYTHONPATH": environment.IMPORT_PATHS[-1]},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.strip()
    assert Path(found).exists()
    assert not Path(found).is_relative_to(tmp_path)
