"""The cgroup of the cluster, with cgroup v1 and v2, on folders of files."""

import errno
from pathlib import Path

import pytest

from cluster.errors import Unsupported
from cluster.host import cgroups
from cluster.settings import CGROUP

V2 = "cpuset cpu io memory hugetlb pids"


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    """The root of cgroup v2: it has cgroup.procs, but no cpuset.cpus."""
    (tmp_path / "cgroup.controllers").write_text(V2 + "\n")
    (tmp_path / "cgroup.subtree_control").write_text(V2 + "\n")
    (tmp_path / "cgroup.procs").write_text("1\n")
    (tmp_path / "system.slice").mkdir()
    (tmp_path / "system.slice" / "cgroup.procs").write_text("")
    return tmp_path


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    for name in ("cpu,cpuacct", "cpuset", "memory", "pids", "systemd", "unified"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").write_text("1\n")
    for name, text in (("cpuset.cpus", "0-1\n"), ("cpuset.mems", "0\n")):
        (tmp_path / "cpuset" / name).write_text(text)
    (tmp_path / "unified" / "cgroup.controllers").write_text("")
    (tmp_path / "no-hierarchy").mkdir()
    return tmp_path


def test_cgroup_v2_has_one_folder(v2: Path) -> None:
    cgroups.make(v2)
    assert cgroups.folders(v2) == [v2 / CGROUP]
    assert (v2 / CGROUP).is_dir()
    assert (v2 / "cgroup.subtree_control").read_text() == V2 + "\n", (
        "all controllers were already enabled"
    )


def test_empty_cpuset_of_cgroup_v2_is_not_filled(v2: Path) -> None:
    ours = v2 / CGROUP
    ours.mkdir()
    (ours / "cpuset.cpus").write_text("\n")
    cgroups.make(v2)
    assert (ours / "cpuset.cpus").read_text() == "\n"


def test_only_missing_controllers_are_enabled(v2: Path) -> None:
    rest = " ".join(name for name in V2.split() if name != "pids")
    (v2 / "cgroup.subtree_control").write_text(rest)
    cgroups.make(v2)
    assert (v2 / "cgroup.subtree_control").read_text() == "+pids"


def test_error_names_the_controller_that_cannot_be_enabled(
    v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container with processes in its root cgroup."""
    (v2 / "cgroup.subtree_control").write_text("")

    def busy(*_: object) -> int:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(Path, "write_text", busy)
    with pytest.raises(Unsupported, match="cannot enable the cgroup controller cpuset"):
        cgroups.make(v2)


def test_cgroup_v1_has_a_folder_in_each_hierarchy(v1: Path) -> None:
    (v1 / "cpuset" / CGROUP).mkdir()
    for name in cgroups.CPUSET:
        (v1 / "cpuset" / CGROUP / name).write_text("\n")
    cgroups.make(v1)
    names = {folder.parent.name for folder in cgroups.folders(v1)}
    assert names == {"cpu,cpuacct", "cpuset", "memory", "pids", "systemd", "unified"}
    assert all(folder.is_dir() for folder in cgroups.folders(v1))
    assert (v1 / "cpuset" / CGROUP / "cpuset.cpus").read_text() == "0-1\n"
    assert (v1 / "cpuset" / CGROUP / "cpuset.mems").read_text() == "0\n"


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_kernel_without_memory_controller_is_unsupported(
    kind: str, request: pytest.FixtureRequest
) -> None:
    root: Path = request.getfixturevalue(kind)
    if kind == "v2":
        (root / "cgroup.controllers").write_text("cpuset cpu pids")
    else:
        (root / "memory" / "cgroup.procs").unlink()
        (root / "memory").rmdir()
    with pytest.raises(Unsupported, match="no cgroup controller memory"):
        cgroups.make(root)


def test_cpu_time_of_the_pods_is_that_of_the_cgroup(v2: Path) -> None:
    assert cgroups.cpu_seconds(v2) == 0
    (v2 / CGROUP).mkdir()
    (v2 / CGROUP / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    assert cgroups.cpu_seconds(v2) == 2.5


def test_cpu_time_of_cgroup_v1_is_not_that_of_throttling(v1: Path) -> None:
    for hierarchy in ("cpu", "cpuacct"):
        (v1 / hierarchy / CGROUP).mkdir(parents=True)
        (v1 / hierarchy / "cgroup.procs").write_text("1\n")
    (v1 / "cpu" / CGROUP / "cpu.stat").write_text("nr_periods 0\n")
    (v1 / "cpuacct" / CGROUP / "cpuacct.usage").write_text("2500000000\n")
    assert cgroups.cpu_seconds(v1) == 2.5
