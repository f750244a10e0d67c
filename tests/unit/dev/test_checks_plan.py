"""A build that only one suite of ``make test`` needs fails that suite alone."""

from pathlib import Path

import pytest

from checks import plan, suites
from cluster import binaries, images
from cluster.errors import ClusterError


def test_where_kueue_cannot_be_built_only_its_own_suite_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    did: list[str] = []

    def ensure(*groups: binaries.Group) -> Path:
        if binaries.KUEUE in groups:
            raise ClusterError("the Go module proxy must be reachable")
        return tmp_path

    monkeypatch.setattr(binaries, "ensure", ensure)
    monkeypatch.setattr(images, "ensure", lambda *_: did.append("images"))
    monkeypatch.setattr(plan, "_start_cluster", lambda: did.append("cluster"))
    monkeypatch.setattr(suites, "pytest", lambda name, *_, **__: did.append(name))
    monkeypatch.setattr(suites, "RESULTS", tmp_path)
    monkeypatch.setattr(suites, "outcomes", [])
    plan._build()
    plan._api_server()
    assert did == ["images", "cluster", "chart", "gitops", "integration"]
    assert [outcome.name for outcome in suites.outcomes] == ["kueue"]
