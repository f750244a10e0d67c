"""``ftj doctor``: what FineTuneJobs need and the cluster lacks, with a remedy for each problem."""

from collections.abc import Sequence
from dataclasses import asdict

from finetune_cli import terminal, version
from finetune_cli.cluster.api import Cluster
from finetune_cli.cluster.health import checks
from finetune_cli.cluster.health.finding import Finding
from finetune_cli.options import Context, Format, Kubeconfig, Namespace, Output

PROBLEM = 1
STYLES = {
    "ok": terminal.GOOD,
    "warning": terminal.WAITING,
    "failed": terminal.BAD,
    "unknown": terminal.QUIET,
}


def run(
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = Format.TEXT,
) -> int:
    """Print the findings; return 1 if a requirement is not met. Raises CommandFailed."""
    cluster = Cluster.of(kubeconfig, context, namespace)
    findings = list(checks.findings(cluster, version.installed()))
    failed = any(finding.state == "failed" for finding in findings)
    if output is Format.JSON:
        terminal.document(
            {"healthy": not failed, "findings": [asdict(finding) for finding in findings]}
        )
    else:
        _print(findings, cluster, failed=failed)
    return PROBLEM if failed else 0


def _print(findings: Sequence[Finding], cluster: Cluster, *, failed: bool) -> None:
    rows: list[Sequence[object]] = []
    for finding in findings:
        rows.append(
            (terminal.text(finding.state, STYLES[finding.state]), finding.about, finding.found)
        )
        if finding.remedy:
            rows.append(("", "", terminal.text(f"-> {finding.remedy}", terminal.QUIET)))
    terminal.table(("STATE", "ABOUT", "FOUND"), rows, indent=0)
    text = f"context {cluster.context}, namespace {cluster.namespace}"
    warnings = sum(finding.state == "warning" for finding in findings)
    if failed:
        terminal.line(f"FineTuneJobs cannot run yet: see the lines that failed ({text}).")
    elif warnings:
        counted = "1 warning" if warnings == 1 else f"{warnings} warnings"
        terminal.line(f"No requirement failed, with {counted} ({text}).")
    else:
        terminal.line(f"FineTuneJobs can run ({text}).")
