"""What a machine lacks: told to whoever may not install it, with the way out.

What is installed, here by a dpkg and an apt-get of our own, starts nothing at boot.
"""

import os
from pathlib import Path

import pytest

from cluster import packages, paths
from cluster.errors import CommandFailed, Unsupported


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


DEBIAN = """\
Package files:
 100 /var/lib/dpkg/status
     release a=now
 500 https://docker.example/linux/debian bookworm/main amd64 Packages
     release o=Docker,a=bookworm,l=Docker CE,c=main,b=amd64
     origin docker.example
 500 {mirror}-security bookworm-security/main amd64 Packages
     release v=12,o=Debian,a=oldstable-security,n=bookworm-security,l=Debian-Security,c=main,b=amd64
     origin mirror.example
 500 {mirror} bookworm-updates/main amd64 Packages
     release v=12-updates,o=Debian,a=oldstable-updates,n=bookworm-updates,l=Debian,c=main,b=amd64
     origin mirror.example
 500 {mirror} bookworm/main amd64 Packages
     release v=12.15,o=Debian,a=oldstable,n=bookworm,l=Debian,c=main,b=amd64
     origin mirror.example
Pinned packages:
"""


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://mirror.example/debian", "http://mirror.example/debian"),
        ("https://mirror.example/debian", "https://mirror.example/debian"),
        # What Debian's cloud images say.
        ("mirror+file:/etc/apt/mirrors/debian.list", ""),
        ("cdrom://[Debian GNU/Linux 12 _Bookworm_]", ""),
    ],
)
def test_the_mirror_is_one_of_debian_that_debootstrap_can_read(given: str, used: str) -> None:
    assert packages.mirror(DEBIAN.format(mirror=given), "bookworm") == used


def test_without_lists_of_packages_there_is_no_mirror() -> None:
    empty = "Package files:\n 100 /var/lib/dpkg/status\n     release a=now\nPinned packages:\n"
    assert packages.mirror(empty, "bookworm") == ""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of stubs: a folder for each package, whose units dpkg-query lists."""
    for name in ("bin", "packages", "packages/prometheus"):
        (tmp_path / name).mkdir()
    stubs = {
        "apt-get": """
            [ "$1" = "$FAILS" ] && exit 100
            [ "$1" = update ] || mkdir packages/docker-registry packages/runc""",
        "dpkg-query": """
            case "$1" in
            -W) for name in $(ls packages); do echo "$name installed"; done
                echo "containerd config-files";;
            -L) shift; for name; do
                  echo "/usr/bin/$name"
                  echo "/lib/systemd/system/$name.service"
                  echo "/usr/lib/systemd/system/sockets.target.wants/$name.socket"
                  echo "/usr/share/doc/$name/example.service"
                done;;
            esac""",
        "systemctl": """
            echo "$@" >> disabled
            exit 1""",
    }
    for name, text in stubs.items():
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/sh\ncd '{tmp_path}'\n{text}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path / "bin"), "/usr/bin", "/bin"]))
    monkeypatch.setattr(packages, "POLICY", tmp_path / "policy-rc.d")
    monkeypatch.setattr(packages, "missing", list)
    monkeypatch.setattr(paths, "LOGS", tmp_path / "logs")
    return tmp_path


def test_what_was_installed_does_not_start_at_boot_and_what_was_there_is_left_alone(
    machine: Path,
) -> None:
    packages._install(["docker-registry"])
    disabled = (machine / "disabled").read_text().splitlines()
    assert disabled == ["disable docker-registry.service", "disable runc.service"]
    assert not packages.POLICY.exists()


def test_a_machine_without_systemd_is_not_asked(machine: Path) -> None:
    (machine / "bin" / "systemctl").unlink()
    for name in ("mkdir", "ls"):
        (machine / "bin" / name).symlink_to(f"/bin/{name}")
    os.environ["PATH"] = str(machine / "bin")
    packages._install(["docker-registry"])
    assert (machine / "packages" / "docker-registry").exists()


def test_lists_that_cannot_be_read_are_told_with_the_way_out(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS", "update")
    with pytest.raises(CommandFailed, match="apt-get update ended with 100") as failed:
        packages._install(["docker-registry"])
    assert "package mirror" in failed.value.hint
    assert not (machine / "disabled").exists()
