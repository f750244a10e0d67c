"""What a machine lacks: told to whoever may not install it, with the way out."""

import os
from pathlib import Path

import pytest

from cluster import packages
from cluster.errors import Unsupported


def test_a_python_without_venv_is_refused_to_whoever_may_not_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "VENV", str(tmp_path / "ensurepip"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Unsupported, match="no ensurepip") as refused:
        packages.ensure_venv()
    assert "python3-venv" in refused.value.hint
    (tmp_path / "ensurepip").mkdir()
    packages.ensure_venv()


def test_without_apt_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Unsupported, match="buildah netavark") as refused:
        packages._install(["buildah", "netavark"])
    assert "by hand" in refused.value.hint


POLICY = """Package files:
 100 /var/lib/dpkg/status
     release a=now
{first}
     release v=12.9,o=Debian,a=stable,n=bookworm,l=Debian,c=main,b=amd64
     origin deb.example
 500 https://deb.example/debian bookworm-updates/main amd64 Packages
     release v=12-updates,o=Debian,a=stable-updates,n=bookworm-updates,c=main,b=amd64
Pinned packages:
"""


@pytest.mark.parametrize(
    ("first", "mirror"),
    [
        (
            " 500 https://deb.example/debian bookworm/main amd64 Packages",
            "https://deb.example/debian",
        ),
        (" 500 mirror+file:/etc/apt/mirrors/debian.list bookworm/main amd64 Packages", ""),
        (
            " 500 https://other.example/apt bookworm/main amd64 Packages\n"
            "     release o=Other,n=bookworm,c=main,b=amd64\n"
            " 500 http://deb.example/debian bookworm/main amd64 Packages",
            "http://deb.example/debian",
        ),
    ],
)
def test_the_mirror_is_debians_and_one_that_debootstrap_reads(first: str, mirror: str) -> None:
    assert packages.mirror_of("bookworm", POLICY.format(first=first)) == mirror
