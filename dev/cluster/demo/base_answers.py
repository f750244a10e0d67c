"""Answers of the base model to the questions of the demo, computed with transformers in a pod.

The pod mounts the volume of the job read-only and loads the base model that the job was trained on.
The answers depend only on that model and the questions, so they are cached.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from cluster import paths
from cluster.errors import ClusterError
from cluster.host import files
from cluster.kubectl import Client
from cluster.settings import BASE_ANSWER_TOKENS

SCRIPT = """
import json, os
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("/work/base")
model = AutoModelForCausalLM.from_pretrained("/work/base", dtype=torch.float32)
answers = []
for question in json.loads(os.environ["QUESTIONS"]):
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True, return_tensors="pt", return_dict=True,
    )
    output = model.generate(
        **inputs, max_new_tokens=int(os.environ["TOKENS"]), do_sample=False
    )
    new = output[0][inputs["input_ids"].shape[1]:]
    answers.append(tokenizer.decode(new, skip_special_tokens=True).strip())
print("ANSWERS " + json.dumps(answers))
"""


def ask(client: Client, job: dict[str, Any], image: str, questions: list[str]) -> list[str]:
    """Return one answer for each question, from the cache or from a pod."""
    revision = job["status"]["revision"]
    ledger = next(entry for entry in job["status"]["revisions"] if entry["revision"] == revision)
    identity = [ledger["artifacts"]["baseCommit"], questions, SCRIPT, BASE_ANSWER_TOKENS]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    cached = paths.CACHE / "base-answers" / f"{key}.json"
    if cached.exists():
        answers: list[str] = json.loads(cached.read_text())
        return answers
    answers = _run_pod(client, job, image, questions)
    files.write(cached, json.dumps(answers))
    return answers


def _run_pod(client: Client, job: dict[str, Any], image: str, questions: list[str]) -> list[str]:
    namespace = job["metadata"]["namespace"]
    pod = _pod(client, job, image, questions)
    name = pod["metadata"]["name"]
    remove = ["delete", "pod", name, "-n", namespace, "--ignore-not-found", "--timeout=60s"]
    client.kubectl(*remove, timeout=70)
    client.apply(pod)
    try:
        client.kubectl(
            "wait",
            f"pod/{name}",
            "-n",
            namespace,
            "--for=jsonpath={.status.phase}=Succeeded",
            "--timeout=300s",
            timeout=310,
        )
        output = client.kubectl("logs", name, "-n", namespace).stdout
    finally:
        client.kubectl(*remove, check=False, timeout=70)
    for line in output.splitlines():
        if line.startswith("ANSWERS "):
            answers: list[str] = json.loads(line.removeprefix("ANSWERS "))
            return answers
    raise ClusterError(
        f"pod {namespace}/{name} printed no answers of the base model:\n{output[-1000:]}"
    )


def _pod(client: Client, job: dict[str, Any], image: str, questions: list[str]) -> dict[str, Any]:
    name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
    selector = f"finetune.dev/job={name},finetune.dev/stage=serve"
    serving = client.get("pods", "-n", namespace, "-l", selector)
    # A ReadWriteOnce volume can only be mounted on the node of the serving pod.
    node = serving["items"][0]["spec"]["nodeName"]
    environment = {
        "QUESTIONS": json.dumps(questions),
        "TOKENS": str(BASE_ANSWER_TOKENS),
        "HF_HUB_OFFLINE": "1",
        "HOME": "/tmp",
    }
    container = {
        "name": "ask",
        "image": image,
        "command": ["python", "-c", SCRIPT],
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "work", "mountPath": "/work", "readOnly": True}],
    }
    claim = f"{name}-{job['status']['revision']}"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{name}-base-answers", "namespace": namespace},
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "runAsGroup": 1000,
                "fsGroup": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "tolerations": [{"operator": "Exists"}],
            "containers": [container],
            "volumes": [
                {
                    "name": "work",
                    "persistentVolumeClaim": {"claimName": claim, "readOnly": True},
                }
            ],
        },
    }
