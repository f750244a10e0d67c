"""The archive of the command-line tool, and its krew manifest."""

import hashlib
import tarfile
from pathlib import Path

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
