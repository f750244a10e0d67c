"""``--check`` prints stale files. ``make check`` runs it over the generated files."""

from pathlib import Path

import pytest

from finetune_api.crd import generate
from finetune_api.crd.resource import Resource
from finetune_api.crd.resources import RESOURCES


def test_check_prints_stale_files_and_generate_writes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stale, missing = "docs/reference/reasons.md", "docs/reference/exit-codes.md"
    # The other files take a second of CPU time each time.
    monkeypatch.setattr(
        generate, "FILES", {name: generate.FILES[name] for name in (missing, stale)}
    )
    assert generate.main([], root=tmp_path) == 0
    assert generate.main(["--check"], root=tmp_path) == 0
    capsys.readouterr()
    (tmp_path / stale).write_text("edited", encoding="utf-8")
    (tmp_path / missing).unlink()
    assert generate.main(["--check"], root=tmp_path) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{name} is stale: run `make generate`" for name in (missing, stale)
    ]
    assert (tmp_path / stale).read_text(encoding="utf-8") == "edited"
    assert not (tmp_path / missing).exists()


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.kind)
def test_chart_has_the_same_crd(resource: Resource) -> None:
    crd, chart = (
        generate.ROOT / folder / resource.file
        for folder in ("crds", "charts/finetune-operator/files")
    )
    assert crd.read_bytes() == chart.read_bytes()
