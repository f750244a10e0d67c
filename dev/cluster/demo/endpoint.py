"""Requests to the endpoint of a job through a port-forward."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator

from cluster.errors import NotReady
from cluster.kubectl import Client

FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


@contextlib.contextmanager
def forwarded(client: Client, service: str, namespace: str) -> Iterator[str]:
    """Yield the base URL of the Service on this machine; the port-forward ends with the context."""
    words = ["port-forward", "-n", namespace, f"service/{service}", ":8000"]
    process = subprocess.Popen(
        client.command(*words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = FORWARDING.search(line)
        if match is None:
            raise NotReady(
                f"kubectl port-forward to Service {namespace}/{service} failed: {line.strip()}"
            )
        yield f"http://127.0.0.1:{match.group(1)}/v1"
    finally:
        process.terminate()
        process.wait(timeout=10)


def chat(url: str, model: str, question: str, *, tokens: int) -> str:
    """Return the most likely answer of the model to one question."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": tokens,
    }
    request = urllib.request.Request(
        f"{url}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=120) as response:
            answer = json.load(response)
    except OSError as error:
        raise NotReady(f"{url} does not answer: {error}") from error
    return str(answer["choices"][0]["message"]["content"]).strip()
