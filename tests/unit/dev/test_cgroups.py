"""Cgroups of both kinds, as folders of files: which are ours, and what is written where."""

import errno
from pathlib import Path

import pytest

from cluster import cgroups
from cluster.errors import Unsupported
from cluster.settings import CGROUP

V2 = "cpuset cpu io memory hugetlb pids"


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    """The root of a unified machine has no cpuset.cpus, and cgroup.procs of its own."""
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


def test_a_unified_machine_has_one_folder(v2: Path) -> None:
    cgroups.make(v2)
    assert cgroups.folders(v2) == [v2 / CGROUP]
    assert (v2 / CGROUP).is_dir()
    assert (v2 / "cgroup.subtree_control").read_text() == V2 + "\n", "nothing was left to pass on"


def test_an_empty_cpuset_of_a_unified_machine_is_its_parents(v2: Path) -> None:
    ours = v2 / CGROUP
    ours.mkdir()
    (ours / "cpuset.cpus").write_text("\n")
    cgroups.make(v2)
    assert (ours / "cpuset.cpus").read_text() == "\n"


def test_controllers_are_passed_on_one_by_one(v2: Path) -> None:
    rest = " ".join(name for name in V2.split() if name != "pids")
    (v2 / "cgroup.subtree_control").write_text(rest)
    cgroups.make(v2)
    assert (v2 / "cgroup.subtree_control").read_text() == "+pids"


def test_a_controller_that_cannot_be_passed_on_is_named(
    v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose processes lie in the root of its cgroup."""
    (v2 / "cgroup.subtree_control").write_text("")

    def busy(*_: object) -> int:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(Path, "write_text", busy)
    with pytest.raises(Unsupported, match="controller cpuset cannot be passed on"):
        cgroups.make(v2)


def test_other_machines_have_a_folder_in_each_hierarchy(v1: Path) -> None:
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
def test_a_kernel_without_the_memory_controller_is_refused(
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
