"""The dashboards and the PodMonitor of the chart, and the queries of the panels."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart.test_alerts import FAILED, promtool
from tests.support.helm import CHART, render

from finetune_api.contracts.ports import TRAINER_METRICS, VERIFIER_METRICS
from finetune_operator.manifests import vllm
from finetune_operator.objects import naming

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "metrics.md").read_text()
BOARDS = {path.stem: json.loads(path.read_text()) for path in CHART.glob("files/dashboards/*.json")}
SERIES = re.compile(r"\b((?:finetune|controller|workqueue|rest|leader|process|vllm:)\w+)")
"""Names of metrics in a query."""
PART_OF_HISTOGRAM = re.compile(r"_(bucket|sum|count)$")
NO_METRIC = {"finetune_dev_job"}
"""Names that look like those of metrics."""
POD = '{namespace="team-a",finetune_dev_job="support-bot",pod="p"}'
FEW: dict[str, tuple[str, str, str, float]] = {
    "finetune_gpu_memory_peak_bytes": (f"finetune_gpu_memory_peak_bytes{POD}", "8x10", "{}", 8),
    "finetune_eval_loss": (f"finetune_eval_loss{POD}", "0.5x10", "{}", 0.5),
    'outcome="Failed"': (FAILED, "_x6 1x5", '{stage="train",reason="X"}', 1),
}
"""Parts of queries without data on the local cluster, which the end-to-end tests leave out: a time
series, the labels of the result, and its value. The first failure counts."""


def queries() -> list[str]:
    """Return the queries of all panels, with values for the variables of Grafana."""
    texts = [
        target["expr"]
        for board in BOARDS.values()
        for panel in board["panels"]
        for target in panel.get("targets", ())
    ]
    for name, value in {
        "$__rate_interval": "5m",
        "$__range": "1d",
        "$namespace": "team-a",
        "$job": "support-bot",
    }.items():
        texts = [text.replace(name, value) for text in texts]
    return texts


def test_files_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "dev/dashboards", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_prometheus_parses_every_query(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:query{number}:value", "expr": text}
        for number, text in enumerate(queries())
    ]
    assert len(rules) > 30
    document = {"groups": [{"name": "panels", "rules": rules}]}
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump(document))
    promtool("check", "rules", "panels.yaml", folder=tmp_path)


@pytest.mark.parametrize("part", FEW)
def test_panels_without_data_on_the_local_cluster_show_a_value(part: str, tmp_path: Path) -> None:
    series, values, labels, value = FEW[part]
    (text,) = (text for text in queries() if part in text)
    case = {
        "interval": "1m",
        "input_series": [{"series": series.replace('"a"', '"team-a"'), "values": values}],
        "promql_expr_test": [
            {
                "expr": text,
                "eval_time": "9m",
                "exp_samples": [{"labels": labels, "value": value}],
            }
        ],
    }
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"tests": [case]}))
    promtool("test", "rules", "tests.yaml", folder=tmp_path)


def test_every_metric_of_a_panel_is_documented() -> None:
    used = {name for text in queries() for name in SERIES.findall(text)} - NO_METRIC
    documented = set(re.findall(r"`([a-z:_]+)[`{]", PAGE))
    assert {PART_OF_HISTOGRAM.sub("", name) for name in used} <= documented


@pytest.mark.parametrize("name", ["fleet", "job", "serving", "showback"])
def test_dashboard_has_a_title_and_texts(name: str) -> None:
    board = BOARDS[name]
    assert (board["uid"], board["title"].partition(" / ")[0]) == (f"finetune-{name}", "FineTune")
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    titles = [panel["title"] for panel in panels]
    assert len(set(titles)) == len(titles)
    assert all(panel["description"].endswith(".") for panel in panels)


def test_chart_installs_each_dashboard_where_grafana_finds_it() -> None:
    values = {"dashboards": {"enabled": True, "annotations": {"grafana_folder": "FineTune"}}}
    rendered = render({"metrics": values})
    found: dict[str, Any] = {}
    for each in rendered.all("ConfigMap"):
        if each["metadata"]["labels"].get("grafana_dashboard") == "1":
            assert each["metadata"]["annotations"] == {"grafana_folder": "FineTune"}
            found |= each["data"]
    assert {name: json.loads(text) for name, text in found.items()} == {
        f"finetune-{name}.json": board for name, board in BOARDS.items()
    }


def test_pod_monitor_scrapes_what_the_pods_of_a_job_serve() -> None:
    values: dict[str, Any] = {"metrics": {"podMonitor": {"enabled": True, "labels": {"a": "b"}}}}
    monitor = render(values).one("PodMonitor", "finetune-operator-jobs")
    assert monitor["metadata"]["labels"]["a"] == "b"
    spec = monitor["spec"]
    assert spec["namespaceSelector"] == {"any": True}
    keys = {each["key"] for each in spec["selector"]["matchExpressions"]}
    assert keys == {naming.JOB, naming.STAGE} == set(spec["podTargetLabels"])
    ports = {each["port"] for each in spec["podMetricsEndpoints"]}
    assert ports == set(_golden_ports())
    names = render(values | {"watchNamespaces": ["team-a"]})
    selected = names.one("PodMonitor", "finetune-operator-jobs")["spec"]["namespaceSelector"]
    assert selected == {"matchNames": ["team-a"]}


def _golden_ports() -> dict[str, int]:
    """Return the ports with metrics of the pods that the operator makes, by their names."""
    folder = ROOT / "tests" / "unit" / "operator" / "manifests" / "golden"
    found: dict[str, int] = {}
    for path in folder.rglob("*.yaml"):
        for port in re.finditer(r"- name: (\S+)\n\s+containerPort: (\d+)", path.read_text()):
            found[port[1]] = int(port[2])
    assert set(found.values()) == {TRAINER_METRICS, VERIFIER_METRICS, vllm.PORT}
    return found
