"""The total of ``make test``: minutes, and the CPU time of machine, steps and pods."""

import dataclasses
import os
from pathlib import Path

import pytest

from checks import machine, suites
from cluster.host import cgroups

BEGAN = machine.Usage(time=100.0, busy=50.0, idle=10.0, pods=5.0)
ENDED = machine.Usage(time=1900.0, busy=3550.0, idle=110.0, pods=1205.0)


def test_time_of_waiting_for_a_disk_is_idle_and_that_of_the_hypervisor_is_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stat").write_text("cpu  100 200 300 400 50 60 70 8000 9 9\ncpu0 1 1 1 1\n")
    monkeypatch.setattr(os, "sysconf", {"SC_CLK_TCK": 10}.__getitem__)
    monkeypatch.setattr(cgroups, "cpu_seconds", lambda: 7.0)
    usage = machine.usage(tmp_path / "stat")
    assert (usage.busy, usage.idle, usage.pods) == (73.0, 45.0, 7.0)
    assert usage.time > 0


def test_pods_of_a_recreated_cluster_count_from_zero() -> None:
    assert ENDED.since(BEGAN).pods == 1200.0
    assert dataclasses.replace(ENDED, pods=4.0).since(BEGAN).pods == 4.0


def test_the_total_names_minutes_steps_and_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    usages = iter([BEGAN, ENDED, ENDED])
    monkeypatch.setattr(machine, "usage", lambda: next(usages))
    monkeypatch.setattr(suites, "RESULTS", tmp_path)
    monkeypatch.setattr(suites, "_began", [])
    step = suites.Outcome(name="unit", ok=True, seconds=60, log=tmp_path, cpu_seconds=300)
    monkeypatch.setattr(suites, "outcomes", [step])
    suites.begin()
    suites.count_pods()
    assert suites.summary() == 0
    text = capsys.readouterr().out
    assert "ok     pods  1800.0 s,  1200.0 s of CPU" in text
    assert (
        "30.0 minutes, 3,500 s of CPU on this machine: 1,500 s of these steps, 2,000 s of the "
        "cluster's daemons, of builds and of other programs; the cores were idle for 100 s" in text
    )
