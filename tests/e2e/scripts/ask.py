"""Run in a pod: send questions to a chat endpoint, with greedy decoding.

given.json: url (…/v1), model, questions, max_tokens. Result: models (ids) and answers, in order.
"""

import json
import socket
import sys
import time
import urllib.parse
import urllib.request
from typing import Any

POLICY_SECONDS = 60
"""The time limit until NetworkPolicies take effect for the address of a new pod."""


def _reach(url: str) -> None:
    """Wait until the NetworkPolicy lets this pod connect; before, connections are rejected."""
    address = urllib.parse.urlsplit(url)
    deadline = time.monotonic() + POLICY_SECONDS
    while True:
        try:
            socket.create_connection((str(address.hostname), address.port or 80), 5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _call(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def main() -> None:
    """Send all questions, one after another."""
    with open(sys.argv[1], encoding="utf-8") as file:
        given = json.load(file)
    _reach(given["url"])
    answers = []
    for question in given["questions"]:
        body = {
            "model": given["model"],
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": given["max_tokens"],
        }
        choice = _call(f"{given['url']}/chat/completions", body)["choices"][0]
        answers.append(choice["message"]["content"])
    models = [model["id"] for model in _call(f"{given['url']}/models")["data"]]
    print("RESULT " + json.dumps({"models": models, "answers": answers}))


main()
