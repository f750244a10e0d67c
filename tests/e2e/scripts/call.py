"""Run in a pod: send HTTP requests, one after another.

Argument: a JSON list of {url, key, body}. A request with a body is a POST with JSON, a request
without a body is a GET. Result: [{status, body}]; a JSON body is parsed.
"""

import json
import sys
import urllib.error
import urllib.request
from typing import Any


def _call(asked: dict[str, Any]) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    if asked.get("key"):
        headers["Authorization"] = f"Bearer {asked['key']}"
    data = json.dumps(asked["body"]).encode() if "body" in asked else None
    request = urllib.request.Request(asked["url"], data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=50) as answer:
            status, text = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            status, text = error.code, error.read().decode()
    try:
        return {"status": status, "body": json.loads(text)}
    except ValueError:
        return {"status": status, "body": text}


def main() -> None:
    """Send all requests."""
    print("RESULT " + json.dumps([_call(asked) for asked in json.loads(sys.argv[1])]))


main()
