"""The alerts of the chart and the documented scrape configuration, in Prometheus' own checker."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.helm import CHART, render

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reference" / "metrics.md").read_text()
RUNBOOKS = (DOCS / "reference" / "alerts.md").read_text()
RULES: dict[str, Any] = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
(GROUP,) = RULES["groups"]
SCRAPES = "scrape_configs:"
FAILED = (
    'finetune_stage_outcomes_total{job_namespace="a",stage="train",outcome="Failed",reason="X"}'
)
LEADER = 'leader_election_master_status{name="finetune-operator",pod="one"}'
DOWN = 'finetune_jobs{job_namespace="a",reason="EndpointDown"}'
LOST = DOWN.replace("EndpointDown", "VolumeLost")
NOT_ROLLED = DOWN.replace("EndpointDown", "RolloutFailed")
GATED = DOWN.replace("EndpointDown", "EvalGateFailed")
WAIT = 'finetune_jobs{job_namespace="a",reason="Unschedulable"}'
NO_QUEUE = WAIT.replace("Unschedulable", "QueueNotFound")
INVALID_BUDGET = WAIT.replace("Unschedulable", "BudgetUnavailable")
SHARED = 'finetune_endpoints{job_namespace="a",reason="%s"}'
ERRORS = 'controller_runtime_reconcile_errors_total{controller="finetunejob"}'
RUNNING_SINCE = 'workqueue_longest_running_processor_seconds{name="finetunejob"}'
BUDGET = 'finetune_budget_gpu_seconds{budget="b",purpose="training",amount="%s"}'
USED, RESERVED, LIMIT = (BUDGET % amount for amount in ("used", "reserved", "limit"))
COST = 'finetune_budget_cost{budget="b",purpose="training",amount="%s",currency="EUR"}'
POD = '{namespace="a",finetune_dev_job="j",pod="p"}'
CHECKPOINT = f"finetune_checkpoint_age_seconds{POD}"
REQUESTS = f"vllm:num_requests_running{POD}"
COMPLETED = f"vllm:request_success_total{POD}"
CASES: dict[str, tuple[str, list[tuple[str, str]], str, bool]] = {
    "the first failure": ("FineTuneStageFailed", [(FAILED, "_x20 1x5")], "23m", True),
    "a later failure": ("FineTuneStageFailed", [(FAILED, "1x60 2x5")], "63m", True),
    "no new failure": ("FineTuneStageFailed", [(FAILED, "1x60")], "50m", False),
    "an endpoint is down": ("FineTuneEndpointNeedsAction", [(DOWN, "1x20")], "10m", True),
    "an endpoint was down": ("FineTuneEndpointNeedsAction", [(DOWN, "1 1 0x20")], "10m", False),
    "a volume is lost": ("FineTuneEndpointNeedsAction", [(LOST, "1x20")], "10m", True),
    "a volume was lost": ("FineTuneEndpointNeedsAction", [(LOST, "1 1 0x20")], "10m", False),
    "a rollout failed": ("FineTuneEndpointNeedsAction", [(NOT_ROLLED, "1x20")], "10m", True),
    "a failed rollout was corrected": (
        "FineTuneEndpointNeedsAction",
        [(NOT_ROLLED, "1 1 0x20")],
        "10m",
        False,
    ),
    "a model is worse": ("FineTuneEndpointNeedsAction", [(GATED, "1x20")], "10m", True),
    "a worse model was replaced": (
        "FineTuneEndpointNeedsAction",
        [(GATED, "1 1 0x20")],
        "10m",
        False,
    ),
    "a shared endpoint is not ready": (
        "FineTuneSharedEndpointNotReady",
        [(SHARED % "Unschedulable", "1x60")],
        "50m",
        True,
    ),
    "a shared endpoint prepares its base": (
        "FineTuneSharedEndpointNotReady",
        [(SHARED % "PreparingBase", "1x60")],
        "50m",
        False,
    ),
    "jobs wait": ("FineTuneJobsWait", [(WAIT, "2x90")], "80m", True),
    "jobs wait for a missing queue": ("FineTuneJobsWait", [(NO_QUEUE, "1x90")], "80m", True),
    "jobs have waited": ("FineTuneJobsWait", [(WAIT, "2x30 0x60")], "80m", False),
    "a budget is not valid": (
        "FineTuneJobsNeedAdministrator",
        [(INVALID_BUDGET, "1x30")],
        "20m",
        True,
    ),
    "a budget was corrected": (
        "FineTuneJobsNeedAdministrator",
        [(INVALID_BUDGET, "1x5 0x30")],
        "20m",
        False,
    ),
    "a budget forbids training": (
        "FineTuneBudgetIsNearItsLimit",
        [(USED, "1x30"), (LIMIT, "0x30")],
        "20m",
        False,
    ),
    "reconciles fail": ("FineTuneReconcilesFail", [(ERRORS, "0+12x60")], "50m", True),
    "a reconcile failed": ("FineTuneReconcilesFail", [(ERRORS, "0+1x60")], "50m", False),
    "no leader": ("FineTuneOperatorHasNoLeader", [(LEADER, "0x10")], "8m", True),
    "no operator": ("FineTuneOperatorHasNoLeader", [(FAILED, "1x10")], "8m", True),
    "a reconcile hangs": ("FineTuneReconcileHangs", [(RUNNING_SINCE, "0+60x20")], "15m", True),
    "a slow reconcile": ("FineTuneReconcileHangs", [(RUNNING_SINCE, "0+60x7 0x20")], "15m", False),
    "an old checkpoint": ("FineTuneCheckpointIsOld", [(CHECKPOINT, "0+60x240")], "200m", True),
    "new checkpoints": (
        "FineTuneCheckpointIsOld",
        [(CHECKPOINT, "0+60x60 0+60x180")],
        "200m",
        False,
    ),
    "an idle endpoint": (
        "FineTuneEndpointIsIdle",
        [(REQUESTS, "0x800"), (COMPLETED, "5x800")],
        "13h",
        True,
    ),
    "short requests": (
        "FineTuneEndpointIsIdle",
        [(REQUESTS, "0x800"), (COMPLETED, "0+1x800")],
        "13h",
        False,
    ),
    "a long request": ("FineTuneEndpointIsIdle", [(REQUESTS, "0x500 1 0x300")], "13h", False),
    "80 % of a budget are committed": (
        "FineTuneBudgetIsNearItsLimit",
        [(USED, "30x20"), (RESERVED, "50x20"), (LIMIT, "100x20")],
        "15m",
        True,
    ),
    "80 % of the money are spent": (
        "FineTuneBudgetIsNearItsLimit",
        [(USED, "30x20"), (COST % "used", "8x20"), (COST % "limit", "10x20")],
        "15m",
        True,
    ),
    "most of a budget is left": (
        "FineTuneBudgetIsNearItsLimit",
        [(USED, "30x20"), (RESERVED, "49x20"), (LIMIT, "100x20")],
        "15m",
        False,
    ),
    "a leader": ("FineTuneOperatorHasNoLeader", [(LEADER, "1x10")], "8m", False),
}


def block(first: str) -> dict[str, Any]:
    """Return the YAML block of the page that begins with a line."""
    (found,) = re.findall(rf"```yaml\n({first}\n.*?)```", PAGE, re.DOTALL)
    document: dict[str, Any] = yaml.safe_load(found)
    return document


def promtool(*arguments: str, folder: Path) -> None:
    """Run promtool. Raises AssertionError with its output if it fails."""
    program = shutil.which("promtool")
    assert program is not None, "promtool is missing: install the Debian package prometheus"
    done = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _reason(series: list[tuple[str, str]]) -> str:
    """Return the label of the only series, or of none."""
    return "".join(re.findall(r'reason="(\w+)"', series[0][0]))


@pytest.mark.parametrize("name", CASES)
def test_alert_fires_only_if_it_should(name: str, tmp_path: Path) -> None:
    alert, series, at, fires = CASES[name]
    # The text is not compared: the number and the labels of the alerts are.
    rules = [{key: rule[key] for key in rule.keys() - {"annotations"}} for rule in GROUP["rules"]]
    (severity,) = (rule["labels"] for rule in rules if rule["alert"] == alert)
    groups = [{"name": "tested", "rules": rules}]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    labels = {
        "FineTuneStageFailed": {"job_namespace": "a", "stage": "train", "reason": "X"},
        "FineTuneEndpointNeedsAction": {"job_namespace": "a", "reason": _reason(series)},
        "FineTuneSharedEndpointNotReady": {"job_namespace": "a", "reason": _reason(series)},
        "FineTuneJobsWait": {"job_namespace": "a", "reason": _reason(series)},
        "FineTuneJobsNeedAdministrator": {"job_namespace": "a", "reason": _reason(series)},
        "FineTuneReconcilesFail": {"controller": "finetunejob"},
        "FineTuneReconcileHangs": {"name": "finetunejob"},
        "FineTuneCheckpointIsOld": {"namespace": "a", "finetune_dev_job": "j"},
        "FineTuneEndpointIsIdle": {"namespace": "a", "finetune_dev_job": "j"},
        "FineTuneBudgetIsNearItsLimit": {"budget": "b", "purpose": "training"},
        "FineTuneOperatorHasNoLeader": {},
    }[alert]
    case = {
        "interval": "1m",
        "input_series": [{"series": each, "values": values} for each, values in series],
        "alert_rule_test": [
            {
                "eval_time": at,
                "alertname": alert,
                "exp_alerts": [{"exp_labels": {**labels, **severity}}] if fires else [],
            }
        ],
    }
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [case]}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(document))
    promtool("test", "rules", "tests.yaml", folder=tmp_path)


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    alerts = {rule["alert"] for rule in GROUP["rules"]}
    for fires in (True, False):
        assert {alert for alert, _, _, expected in CASES.values() if expected is fires} == alerts


def test_every_alert_links_to_its_section() -> None:
    """GitHub and the site make the anchor of a heading from its lower-case letters."""
    sections = re.findall(r"^## (\w+)$", RUNBOOKS, re.MULTILINE)
    links = {
        rule["alert"]: rule["annotations"]["runbook_url"].partition("/reference/alerts/#")[2]
        for rule in GROUP["rules"]
    }
    assert sections == list(links)
    assert {name: name.lower() for name in links} == links


def test_chart_installs_the_rules_for_its_own_lease(tmp_path: Path) -> None:
    enabled = {"metrics": {"prometheusRule": {"enabled": True, "labels": {"team": "ml"}}}}
    (installed,) = render(enabled).all("PrometheusRule")
    assert installed["spec"] == RULES
    assert installed["metadata"]["labels"]["team"] == "ml"
    renamed = render({**enabled, "fullnameOverride": "tuner"})
    (leader, *_) = renamed.one("PrometheusRule", "tuner")["spec"]["groups"][0]["rules"]
    assert f'name="{renamed.config["leaseName"]}"' in leader["expr"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(installed["spec"]))
    promtool("check", "rules", "rules.yaml", folder=tmp_path)


def test_scrape_configuration_is_valid(tmp_path: Path) -> None:
    configuration = block(SCRAPES)
    (scrape,) = configuration["scrape_configs"]
    # Debian builds Prometheus without the discovery of Kubernetes' objects.
    (discovery,) = scrape.pop("kubernetes_sd_configs")
    assert discovery == {"role": "pod", "namespaces": {"names": ["finetune-system"]}}
    # The file of the token exists only in a pod.
    scrape["authorization"]["credentials_file"] = str(tmp_path / "token")
    (tmp_path / "token").write_text("x")
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    promtool("check", "config", "prometheus.yaml", folder=tmp_path)
