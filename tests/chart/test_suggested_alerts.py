"""The alerts and the scrape configuration of the page about metrics, in Prometheus' own checker."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text()
RULES, SCRAPES = "groups:", "scrape_configs:"
FAILED = (
    'finetune_stage_outcomes_total{job_namespace="a",stage="train",outcome="Failed",reason="X"}'
)
LEADER = 'leader_election_master_status{name="finetune-operator",pod="one"}'
DOWN = 'finetune_jobs{job_namespace="a",reason="EndpointDown"}'
WAIT = 'finetune_jobs{job_namespace="a",reason="Unschedulable"}'
ERRORS = 'controller_runtime_reconcile_errors_total{controller="finetunejob"}'
CASES: dict[str, tuple[str, list[tuple[str, str]], str, bool]] = {
    "the first failure": ("FineTuneStageFailed", [(FAILED, "_x20 1x5")], "23m", True),
    "a later failure": ("FineTuneStageFailed", [(FAILED, "1x60 2x5")], "63m", True),
    "no new failure": ("FineTuneStageFailed", [(FAILED, "1x60")], "50m", False),
    "an endpoint is down": ("FineTuneEndpointNeedsAction", [(DOWN, "1x20")], "10m", True),
    "an endpoint was down": ("FineTuneEndpointNeedsAction", [(DOWN, "1 1 0x20")], "10m", False),
    "jobs wait": ("FineTuneJobsWait", [(WAIT, "2x90")], "80m", True),
    "jobs have waited": ("FineTuneJobsWait", [(WAIT, "2x30 0x60")], "80m", False),
    "reconciles fail": ("FineTuneReconcilesFail", [(ERRORS, "0+12x60")], "50m", True),
    "a reconcile failed": ("FineTuneReconcilesFail", [(ERRORS, "0+1x60")], "50m", False),
    "no leader": ("FineTuneOperatorHasNoLeader", [(LEADER, "0x10")], "8m", True),
    "no operator": ("FineTuneOperatorHasNoLeader", [(FAILED, "1x10")], "8m", True),
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


@pytest.mark.parametrize("name", CASES)
def test_alert_fires_only_if_it_should(name: str, tmp_path: Path) -> None:
    alert, series, at, fires = CASES[name]
    rules = block(RULES)
    for rule in rules["groups"][0]["rules"]:
        # The text is not compared: the number and the labels of the alerts are.
        rule.pop("annotations")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    labels = {
        "FineTuneStageFailed": {"job_namespace": "a", "stage": "train", "reason": "X"},
        "FineTuneEndpointNeedsAction": {"job_namespace": "a", "reason": "EndpointDown"},
        "FineTuneJobsWait": {"job_namespace": "a", "reason": "Unschedulable"},
        "FineTuneReconcilesFail": {},
        "FineTuneOperatorHasNoLeader": {},
    }[alert]
    case = {
        "interval": "1m",
        "input_series": [{"series": each, "values": values} for each, values in series],
        "alert_rule_test": [
            {
                "eval_time": at,
                "alertname": alert,
                "exp_alerts": [{"exp_labels": labels}] if fires else [],
            }
        ],
    }
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [case]}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(document))
    promtool("test", "rules", "tests.yaml", folder=tmp_path)


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    alerts = {rule["alert"] for rule in block(RULES)["groups"][0]["rules"]}
    for fires in (True, False):
        assert {alert for alert, _, _, expected in CASES.values() if expected is fires} == alerts


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
