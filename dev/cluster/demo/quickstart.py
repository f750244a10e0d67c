"""``make run``: start the cluster, install the operator, tune a model, and ask it questions."""

from __future__ import annotations

import dataclasses
import json
import textwrap
import time
from pathlib import Path
from typing import Any

from cluster import install, kubectl, lifecycle, packages, paths, phases
from cluster.components import hub
from cluster.demo import base_answers, endpoint, job, preflight
from cluster.errors import ClusterError
from cluster.phases import phase, say
from cluster.settings import BASE_ANSWER_TOKENS

EXAMPLE = paths.REPO / "examples" / "quickstart.yaml"
NAME, NAMESPACE = "quickstart", "default"
JOB_SECONDS = 1800.0
ASKED = ("nginx", "sqlite3", "tmux", "htop")
# Without a hub that has the demo repositories: the same model on the public hub, and the rows in a
# ConfigMap.
PUBLIC_MODEL = "hf://HuggingFaceTB/SmolLM2-135M-Instruct"
ROWS_CONFIGMAP = "quickstart-rows"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurrentCluster:
    """Options of ``CLUSTER=current``: images, an optional hub with the demo data, and values."""

    images: install.Images
    hub_endpoint: str
    values: Path | None


def run(current: CurrentCluster | None) -> None:
    """Run the demo on the current cluster of the user; None means the local cluster."""
    begin = time.monotonic()
    if current is None:
        client, images = _start_local_cluster()
        public = False
    else:
        client, images = kubectl.current(), current.images
        say(f"using the current context {_context(client)}")
        install.install(client, images, values=current.values, hub_endpoint=current.hub_endpoint)
        public = not current.hub_endpoint
    rows = hub.rows()
    with phase(f"run {EXAMPLE.relative_to(paths.REPO)}"):
        _apply(client, rows, public=public)
        ready = job.watch(client, NAME, NAMESPACE, timeout=JOB_SECONDS)
    _compare(client, ready, images.trainer, rows)
    if current is None:
        _report_unsupported(client)
    _print_summary(client, ready, time.monotonic() - begin, public=public)


def _report_unsupported(client: kubectl.Client) -> None:
    """Print the jobs of an earlier version in a reused cluster, with the fix."""
    if jobs := job.unsupported(client):
        say(
            "\nThe operator cannot run these jobs of an earlier version. Delete and re-create them:"
        )
        for namespace, name in jobs:
            say(f"    kubectl delete ftj {name} -n {namespace}")


def _start_local_cluster() -> tuple[kubectl.Client, install.Images]:
    with phase("check this machine"):
        preflight.check()
    packages.ensure()
    built = install.build_everything()
    lifecycle.up()
    install.install_with_hub(built)
    return kubectl.local(), built


def _context(client: kubectl.Client) -> str:
    return client.kubectl("config", "current-context").stdout.strip()


def _apply(client: kubectl.Client, rows: list[dict[str, str]], *, public: bool) -> None:
    present = client.get("finetunejob", NAME, "-n", NAMESPACE)
    if present is not None and job.condition(present, "Ready").true:
        say(f"    FineTuneJob {NAMESPACE}/{NAME} is already Ready; completed work is not repeated")
        say(f"    (to train it again: ftj rerun {NAME} -n {NAMESPACE})")
    if not public:
        client.kubectl("apply", "-n", NAMESPACE, "-f", str(EXAMPLE))
        return
    text = "\n".join(json.dumps(row) for row in rows) + "\n"
    client.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": ROWS_CONFIGMAP, "namespace": NAMESPACE},
            "data": {"train.jsonl": text},
        }
    )
    words = ["create", "--dry-run=client", "-o", "json", "-n", NAMESPACE, "-f", str(EXAMPLE)]
    manifest = json.loads(client.kubectl(*words).stdout)
    manifest["spec"]["model"]["source"] = PUBLIC_MODEL
    manifest["spec"]["dataset"]["source"] = f"configmap://{ROWS_CONFIGMAP}/train.jsonl"
    client.apply(manifest)


def _compare(
    client: kubectl.Client, ready: dict[str, Any], image: str, rows: list[dict[str, str]]
) -> None:
    """Ask questions from the dataset, and print the answers of tuned and base model."""
    expected = {row["instruction"]: row["output"] for row in rows}
    questions = [f"What is the Debian package {name}?" for name in ASKED]
    questions = [question for question in questions if question in expected]
    with phase("ask the tuned model and the base model"):
        with endpoint.forwarded(client, f"{NAME}-serve", NAMESPACE) as url:
            tuned = [
                endpoint.chat(url, NAME, question, tokens=BASE_ANSWER_TOKENS)
                for question in questions
            ]
        base = base_answers.ask(client, ready, image, questions)
    for question, before, after in zip(questions, base, tuned, strict=True):
        say(f"\n    {question}")
        for label, answer in (("dataset", expected[question]), ("base", before), ("tuned", after)):
            short = textwrap.shorten(answer, 150, placeholder=" ...")
            say(f"      {label:7} {short}")
    correct = sum(
        expected[question] in after for question, after in zip(questions, tuned, strict=True)
    )
    if correct == 0:
        raise ClusterError(
            f"FineTuneJob {NAMESPACE}/{NAME}: no answer of the tuned model matches the dataset",
            hint=f"check the training with `kubectl -n {NAMESPACE} describe ftj {NAME}`",
        )


def _print_summary(
    client: kubectl.Client, ready: dict[str, Any], seconds: float, *, public: bool
) -> None:
    local = client.kubeconfig is not None
    exports = "".join(f"\n      {line}" for line in lifecycle.exports()) if local else ""
    delete = f"kubectl delete ftj {NAME} -n {NAMESPACE}"
    release = (
        f"kubectl patch ftj {NAME} -n {NAMESPACE} --type merge "
        """-p '{"spec": {"serving": {"replicas": 0}}}'"""
    )
    uninstall = [delete, "helm uninstall finetune-operator -n finetune-system"]
    if public:
        uninstall.append(f"kubectl delete configmap {ROWS_CONFIGMAP} -n {NAMESPACE}")
    say(
        f"""
Done in {seconds / 60:.1f} minutes.

  Endpoint in the cluster: {ready["status"]["endpoint"]}
  From this machine:{exports}
      kubectl port-forward -n {NAMESPACE} service/{NAME}-serve 8000 &
      curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
        -d '{{"model": "{NAME}", "messages": [{{"role": "user", "content": "What is tmux?"}}]}}'

  The command ftj (pipx install '.[cli]') shows the job, explains its state, and trains it again:
      ftj status {NAME} -n {NAMESPACE}
      ftj why {NAME} -n {NAMESPACE}
      ftj rerun {NAME} -n {NAMESPACE}

  To run another job, copy examples/quickstart.yaml, change its name, then apply and watch it:
      kubectl apply -n {NAMESPACE} -f my-copy.yaml
      kubectl get ftj -n {NAMESPACE} -w
  The cluster has one GPU, and {NAME} uses it for serving. To release it and keep the model, run:
      {release}

  To remove everything, run: {"make down" if local else "; ".join(uninstall)}
"""
    )
    longest = sorted(phases.finished, key=lambda finished: -finished[1])[:12]
    say("  Longest phases:")
    for name, spent in longest:
        say(f"    {spent:7.1f} s  {name}")
