"""What every command finds in its environment, whatever shell it was started from."""

import os

import pytest

from cluster import surroundings


def prepared(**environment: str) -> dict[str, str]:
    surroundings.prepare(environment)
    return environment


def test_debians_programs_are_found_from_any_shell() -> None:
    found = prepared(PATH="/opt/own:/usr/bin")["PATH"].split(os.pathsep)
    assert found[:2] == ["/opt/own", "/usr/bin"]
    assert {"/usr/sbin", "/sbin"} <= set(found)
    assert "" not in prepared()["PATH"].split(os.pathsep)


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_no_proxy_comes_between_the_cluster_and_its_programs(name: str) -> None:
    found = prepared(HTTPS_PROXY="http://proxy.example:3128", **{name: ".example"})
    for each in ("NO_PROXY", "no_proxy"):
        first, *ours = found[each].split(",")
        assert first == ".example"
        assert {"10.97.0.1", "10.244.0.0/24", "10.96.0.0/16", ".svc"} <= set(ours)
