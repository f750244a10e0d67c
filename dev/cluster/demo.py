"""``make run``: from nothing to a tuned model that answers, with the time of every phase."""

from __future__ import annotations

import dataclasses
import json
import textwrap
import time
from pathlib import Path
from typing import Any

from cluster import (
    base_answers,
    base_image,
    binaries,
    endpoint,
    hub,
    install,
    job,
    kubectl,
    lifecycle,
    packages,
    paths,
    phases,
    preflight,
)
from cluster.errors import ClusterError
from cluster.phases import phase, say, side_by_side
from cluster.settings import BASE_ANSWER_TOKENS

EXAMPLE = paths.REPO / "examples" / "quickstart.yaml"
NAME, NAMESPACE = "quickstart", "default"
JOB_SECONDS = 1800.0
ASKED = ("nginx", "sqlite3", "tmux", "htop")
# Without a mirror that has our demo repositories: the same model where everybody finds it, and
# the rows as a ConfigMap.
PUBLIC_MODEL = "hf://HuggingFaceTB/SmolLM2-135M-Instruct"
ROWS_CONFIGMAP = "quickstart-rows"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """``CLUSTER=current``: images that the nodes can pull, and a hub with the demo repositories."""

    images: install.Images
    hub_endpoint: str
    values: Path | None


def run(elsewhere: Elsewhere | None) -> None:
    """The whole demo. ``elsewhere`` None means the local cluster."""
    begin = time.monotonic()
    if elsewhere is None:
        client, chosen = _local()
        public = False
    else:
        client, chosen = kubectl.current(), elsewhere.images
        say(f"using the current context {_context(client)}")
        endpoint_value = elsewhere.hub_endpoint
        install.install(client, chosen, values=elsewhere.values, hub_endpoint=endpoint_value)
        public = not endpoint_value
    rows = hub.rows()
    with phase(f"tune: {EXAMPLE.relative_to(paths.REPO)}"):
        _apply(client, rows, public=public)
        ready = job.watch(client, NAME, NAMESPACE, timeout=JOB_SECONDS)
    _compare(client, ready, chosen.trainer, rows)
    _farewell(client, ready, time.monotonic() - begin, public=public)


def _local() -> tuple[kubectl.Client, install.Images]:
    with phase("look at this machine"):
        preflight.check()
    packages.ensure()
    built: list[install.Images] = []

    def images_and_content() -> None:
        base_image.ensure()
        hub.ensure_content()
        built.append(install.local_images())

    # Compiling keeps the cores busy, images mostly the disk and the network.
    with phase("build what is not built yet"):
        side_by_side(lambda: binaries.ensure(*binaries.CLUSTER, binaries.HELM), images_and_content)
    lifecycle.up()
    install.beside_the_hub(built[0])
    return kubectl.local(), built[0]


def _context(client: kubectl.Client) -> str:
    return client.kubectl("config", "current-context").stdout.strip()


def _apply(client: kubectl.Client, rows: list[dict[str, str]], *, public: bool) -> None:
    there = client.get("finetunejob", NAME, "-n", NAMESPACE)
    if there is not None and job.condition(there, "Ready").true:
        say(f"    {NAME} is there and ready: nothing that is finished is done again")
        say(f"    (to see it all: kubectl delete ftj {NAME} -n {NAMESPACE}, then make run again)")
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
    """Ask what was taught, and show what the model said before."""
    taught = {row["instruction"]: row["output"] for row in rows}
    questions = [f"What is the Debian package {name}?" for name in ASKED]
    questions = [question for question in questions if question in taught]
    with phase("ask the tuned model and, for comparison, the base model"):
        with endpoint.forwarded(client, f"{NAME}-serve", NAMESPACE) as url:
            tuned = [
                endpoint.chat(url, NAME, question, tokens=BASE_ANSWER_TOKENS)
                for question in questions
            ]
        base = base_answers.ask(client, ready, image, questions)
    for question, before, after in zip(questions, base, tuned, strict=True):
        say(f"\n    {question}")
        for label, answer in (("taught", taught[question]), ("base", before), ("tuned", after)):
            short = textwrap.shorten(answer, 150, placeholder=" ...")
            say(f"      {label:7} {short}")
    right = sum(taught[question] in after for question, after in zip(questions, tuned, strict=True))
    if right == 0:
        raise ClusterError(
            "the tuned model gives none of the taught answers",
            hint=f"kubectl -n {NAMESPACE} describe ftj {NAME}",
        )


def _farewell(
    client: kubectl.Client, ready: dict[str, Any], seconds: float, *, public: bool
) -> None:
    local = client.kubeconfig is not None
    exports = "".join(f"\n      {line}" for line in lifecycle.exports()) if local else ""
    delete = f"kubectl delete ftj {NAME} -n {NAMESPACE}"
    away = [delete, "helm uninstall finetune-operator -n finetune-system"]
    if public:
        away.append(f"kubectl delete configmap {ROWS_CONFIGMAP} -n {NAMESPACE}")
    say(
        f"""
Done in {seconds / 60:.1f} minutes.

  The endpoint, inside the cluster: {ready["status"]["endpoint"]}
  From this machine:{exports}
      kubectl port-forward -n {NAMESPACE} service/{NAME}-serve 8000 &
      curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
        -d '{{"model": "{NAME}", "messages": [{{"role": "user", "content": "What is tmux?"}}]}}'

  The next job: copy examples/quickstart.yaml, give it another name, and apply and watch it:
      kubectl apply -n {NAMESPACE} -f the-copy.yaml
      kubectl get ftj -n {NAMESPACE} -w
  (This cluster has one GPU to offer, and {NAME} serves on it: {delete} first.)

  Take it all down: {"make down" if local else "; ".join(away)}
"""
    )
    longest = sorted(phases.finished, key=lambda item: -item[1])[:12]
    say("  Where the time went:")
    for name, spent in longest:
        say(f"    {spent:7.1f} s  {name}")
