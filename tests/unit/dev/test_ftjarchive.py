"""The archive of the command-line tool, and its krew manifest."""

import hashlib
import os
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from urllib.error import HTTPError

import pytest

from cluster import paths
from ftjarchive import archive, krew


def test_equal_programs_are_equal_archives(tmp_path: Path) -> None:
    digests = []
    for number in range(2):
        program = tmp_path / str(number) / "ftj"
        (program / "_internal").mkdir(parents=True)
        (program / "ftj").write_text("program")
        (program / "ftj").chmod(0o755)
        (program / "_internal" / "library").write_text("library")
        made = archive._pack(program, tmp_path / f"{number}.tar.gz")
        digests.append(hashlib.sha256(made.read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    with tarfile.open(tmp_path / "0.tar.gz") as tar:
        members = {each.name: each for each in tar.getmembers()}
    assert members.keys() == {"ftj/ftj", "ftj/_internal", "ftj/_internal/library"}
    assert members["ftj/ftj"].mode & 0o111
    assert {each.uid for each in members.values()} == {0}


def test_krew_selects_the_archive_of_each_platform(tmp_path: Path) -> None:
    for name in ("ftj-0.1.0-linux-amd64.tar.gz", "ftj-0.1.0-darwin-arm64.tar.gz", "other.tar.gz"):
        (tmp_path / name).write_text(name)
    found = krew.manifest(tmp_path, "https://downloads.example.com/")
    platforms = found["spec"]["platforms"]
    assert [each["selector"]["matchLabels"] for each in platforms] == [
        {"os": "darwin", "arch": "arm64"},
        {"os": "linux", "arch": "amd64"},
    ]
    linux = platforms[1]
    assert linux["uri"] == "https://downloads.example.com/ftj-0.1.0-linux-amd64.tar.gz"
    assert linux["sha256"] == hashlib.sha256(b"ftj-0.1.0-linux-amd64.tar.gz").hexdigest()
    assert linux["bin"] == "ftj/ftj"
    assert krew.ARCHIVE.fullmatch(archive.name())
    # The limit of krew.
    assert len(found["spec"]["shortDescription"]) <= 50


def test_all_packages_of_the_archive_are_pinned() -> None:
    text = archive.CONSTRAINTS.read_text()
    assert "pyinstaller==" in text
    assert "torch==" not in text
    assert text.count("==") <= text.count("--hash=sha256:")


def test_the_data_files_of_the_wheel_are_in_the_archive() -> None:
    project = tomllib.loads((paths.REPO / "pyproject.toml").read_text())
    assert {*archive.WITH_DATA} == project["tool"]["setuptools"]["package-data"].keys()


def test_a_program_without_the_files_of_its_pages_fails_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "ftj"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m finetune_cli "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    archive._check_pages(program)
    monkeypatch.setattr(archive, "PAGE_FILES", ("static/absent",))
    with pytest.raises(HTTPError):
        archive._check_pages(program)


@pytest.mark.exhaustive
def test_the_archive_of_this_machine_is_installed_as_krew_does(tmp_path: Path) -> None:
    """It downloads, compares the digest, unpacks, and links ``kubectl-ftj`` to the program."""
    made = archive.make(tmp_path / "build")
    (platform,) = krew.manifest(tmp_path / "build", "https://downloads.example.com")["spec"][
        "platforms"
    ]
    assert platform["uri"] == f"https://downloads.example.com/{made.name}"
    assert platform["sha256"] == hashlib.sha256(made.read_bytes()).hexdigest()
    with tarfile.open(made) as tar:
        tar.extractall(tmp_path / "store", filter="data")
    plugin = tmp_path / "kubectl-ftj"
    plugin.symlink_to(tmp_path / "store" / platform["bin"])

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(plugin), *arguments], env={}, capture_output=True, text=True, check=False
        )

    assert "Usage: kubectl ftj status" in run("status", "--help").stdout
    assert run("--version").stdout.startswith("finetune-operator ")
    example = paths.REPO / "examples" / "quickstart.yaml"
    assert run("validate", str(example)).returncode == 0
    absent = run("status", "--kubeconfig", "absent")
    assert (absent.returncode, absent.stderr.count("\n")) == (1, 1)
    assert "the kubeconfig cannot be used" in absent.stderr
