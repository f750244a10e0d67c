"""The pages with tested versions: their tables, and the oldest supported version."""

import dataclasses
import json
from pathlib import Path

import pytest

from cluster import paths
from cluster.errors import ClusterError
from conformance import components, modules, pages
from conformance.pages import BEGIN, Row
from generated_part import END, with_lines


def row(component: str, version: str) -> Row:
    return Row(
        component=component, label=version, version=version, tests=3, seconds=4, cpu_seconds=2
    )


ROWS = [row("Kubernetes", "1.31.14"), row("Kubernetes", "1.9.2"), row("Argo CD", "3.5.7")]


def test_table_lists_the_versions_of_both_commands() -> None:
    lines = pages.table(ROWS, {"Kubernetes": "1.34.4", "Helm": "3.22.0"})
    assert lines[2:] == [
        "| Kubernetes | 1.34.4 | 1.31.14, 1.9.2 |",
        "| Helm | 3.22.0 | – |",
        "| Argo CD | – | 3.5.7 |",
    ]
    page = with_lines(f"before\n{BEGIN}\nold\n{END}\nafter\n", BEGIN, [*lines, ""])
    assert page.startswith(f"before\n{BEGIN}\n\n| | `make test`")
    assert page.endswith(f"3.5.7 |\n\n{END}\nafter\n")
    assert with_lines(page, BEGIN, [*lines, ""]) == page
    with pytest.raises(ValueError, match="needs the lines"):
        with_lines("no markers", BEGIN, [*lines, ""])


def test_oldest_version_is_compared_by_number() -> None:
    versions = [each.version for each in ROWS if each.component == "Kubernetes"]
    text = "You need Kubernetes 1.31 or later, or help."
    pattern = r"(?<=Kubernetes )\d+\.\d+(?= or later)"
    assert (
        pages.with_oldest(text, pattern, versions) == "You need Kubernetes 1.9 or later, or help."
    )
    for wrong, known in (("Kubernetes", versions), (text, [])):
        with pytest.raises(ValueError, match="no version"):
            pages.with_oldest(wrong, pattern, known)


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A copy of the record without the last component."""
    file, last = tmp_path / "results.json", components.ALL[-1].title
    kept = (each for each in pages.recorded() if each.title != last)
    file.write_text(json.dumps([dataclasses.asdict(each) for each in kept]))
    monkeypatch.setattr(pages, "RECORD", file)
    return file


def test_check_reports_a_component_without_a_result(
    record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pages.check()
    assert f"{components.ALL[-1].title}: no result yet" in capsys.readouterr().err


def test_check_rejects_a_result_without_a_component(
    record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    another = json.loads(record.read_text())[0] | {"label": "another"}
    record.write_text(json.dumps([another]))
    assert pages.check() == 1
    assert "Kubernetes another: has a result" in capsys.readouterr().err


def test_record_keeps_the_results_of_other_components(record: Path) -> None:
    before, last = pages.recorded(), components.ALL[-1]
    assert before
    new = dataclasses.replace(row(last.name, last.label), version="1.2.3")
    pages.record([new, row("Removed", "1")])
    assert pages.recorded() == [*before, new]


def test_a_run_without_a_build_keeps_the_duration_of_the_first_build(record: Path) -> None:
    known, last = pages.recorded(), components.ALL[-1]
    tested = row(last.name, last.label)
    built = dataclasses.replace(tested, build_seconds=300, build_cpu_seconds=500)
    faster = dataclasses.replace(tested, seconds=1)
    pages.record([built])
    pages.record([faster])
    kept = dataclasses.replace(faster, build_seconds=300, build_cpu_seconds=500)
    assert pages.recorded() == [*known, kept]
    again = dataclasses.replace(tested, build_seconds=7, build_cpu_seconds=8)
    pages.record([again])
    assert pages.recorded() == [*known, again]


def test_durations_are_listed_with_their_sums() -> None:
    built = dataclasses.replace(ROWS[0], tests=1998, build_seconds=300, build_cpu_seconds=500)
    unmeasured = dataclasses.replace(ROWS[2], cpu_seconds=0)
    assert pages.durations([built, unmeasured])[2:] == [
        "| Kubernetes | 1.31.14 | 1,998 | 300 s (500 s) | 4 s (2 s) |",
        "| Argo CD | 3.5.7 | 3 | – | 4 s |",
        "| all | | 2,001 | 300 s (500 s) | 8 s (2 s) |",
    ]


def test_folders_of_a_repository_are_published_modules() -> None:
    names = ("api", "kube-proxy", "sample-controller")
    lines = "".join(f"\tk8s.io/{name} => ./staging/src/k8s.io/{name}\n" for name in names)
    module = modules.kubernetes("1.31.14")
    assert module.edited(f"replace (\n{lines}\tgo.example/a => ../a\n)\n") == (
        "replace (\n\tk8s.io/api => k8s.io/api v0.31.14\n"
        "\tk8s.io/kube-proxy => k8s.io/kube-proxy v0.31.11\n\tgo.example/a => ../a\n)\n"
    )
    assert "gitVersion=v1.31.14" in module.flags
    assert modules.folder(module).name == "kubernetes-v1.31.14"
    assert modules.folder(modules.helm("4.3.1")).name == "helm-v4.3.1"
    assert modules.folder(modules.ARGOCD).name == "argo-cd-v3.5.7"


def test_helm_3_renders_for_the_kubernetes_of_its_release() -> None:
    module = modules.helm("3.17.0", kubernetes="1.32")
    for package in ("chartutil", "lint/rules"):
        variable = f" -X helm.sh/helm/v3/pkg/{package}.k8sVersion"
        assert f"{variable}Major=1{variable}Minor=32" in module.flags
    assert "-X" not in modules.helm("4.3.1").flags


def test_a_component_is_selected_by_its_name_or_title() -> None:
    helm = [each for each in components.ALL if each.name == "Helm"]
    assert components.chosen(["Helm"]) == helm
    assert components.chosen([helm[-1].title]) == [helm[-1]]
    assert components.chosen([]) == list(components.ALL)
    with pytest.raises(ClusterError, match=r"no such component: Halm$"):
        components.chosen(["Helm", "Halm"])


def test_the_tests_of_all_components_exist() -> None:
    files = {file for each in components.ALL for file in each.tests}
    assert [file for file in sorted(files) if not (paths.REPO / file).exists()] == []


def test_release_workflow_has_the_tested_cosign() -> None:
    workflow = (paths.REPO / ".github/workflows/release.yml").read_text()
    path, version = modules.COSIGN.path, modules.COSIGN.version
    assert f"COSIGN: {path}/cmd/cosign@{version}\n" in workflow
