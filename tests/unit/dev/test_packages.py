"""Installation of Debian packages, with stub programs for apt-get, dpkg-query and systemctl."""

import os
from pathlib import Path

import pytest

from cluster import packages, paths
from cluster.errors import CommandFailed, Unsupported


def test_missing_ensurepip_is_unsupported_without_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "VENV", str(tmp_path / "ensurepip"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Unsupported, match="no ensurepip") as error:
        packages.ensure_venv()
    assert "python3-venv" in error.value.hint
    (tmp_path / "ensurepip").mkdir()
    packages.ensure_venv()


def test_error_lists_the_packages_if_apt_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Unsupported, match="buildah netavark") as error:
        packages._install(["buildah", "netavark"])
    assert "manually" in error.value.hint


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
    ("source", "expected"),
    [
        ("http://mirror.example/debian", "http://mirror.example/debian"),
        ("https://mirror.example/debian", "https://mirror.example/debian"),
        # In the cloud images of Debian.
        ("mirror+file:/etc/apt/mirrors/debian.list", ""),
        ("cdrom://[Debian GNU/Linux 12 _Bookworm_]", ""),
    ],
)
def test_mirror_is_a_debian_mirror_that_debootstrap_can_read(source: str, expected: str) -> None:
    assert packages.mirror(DEBIAN.format(mirror=source), "bookworm") == expected


def test_mirror_is_empty_without_package_lists() -> None:
    empty = "Package files:\n 100 /var/lib/dpkg/status\n     release a=now\nPinned packages:\n"
    assert packages.mirror(empty, "bookworm") == ""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with stub programs: a folder for each package, whose units dpkg-query lists."""
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


def test_only_services_of_new_packages_are_disabled_at_boot(
    machine: Path,
) -> None:
    packages._install(["docker-registry"])
    disabled = (machine / "disabled").read_text().splitlines()
    assert disabled == ["disable docker-registry.service", "disable runc.service"]
    assert not packages.POLICY.exists()


def test_packages_are_installed_without_systemd(machine: Path) -> None:
    (machine / "bin" / "systemctl").unlink()
    for name in ("mkdir", "ls"):
        (machine / "bin" / name).symlink_to(f"/bin/{name}")
    os.environ["PATH"] = str(machine / "bin")
    packages._install(["docker-registry"])
    assert (machine / "packages" / "docker-registry").exists()


def test_failed_update_of_package_lists_is_reported_with_a_fix(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS", "update")
    with pytest.raises(CommandFailed, match="apt-get update failed with exit code 100") as error:
        packages._install(["docker-registry"])
    assert "package mirror" in error.value.hint
    assert not (machine / "disabled").exists()
