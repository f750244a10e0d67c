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
