#!/usr/bin/env python3
"""Comment plan.md on the pull request or merge request of a pipeline, once.

Later runs edit the comment: they find it by its first line and by its author, because anybody can
write a comment with the same first line. It needs GH_TOKEN and NUMBER in a workflow of GitHub, and
PLAN_TOKEN in a job of GitLab. PLAN_AUTHOR is the user of GH_TOKEN, if that is not the one of the
workflow.
"""

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

Headers = dict[str, str]
Platform = tuple[Headers, str, str, str, Callable[[dict[str, Any]], bool]]
"""Headers, address of the comments, of one comment, method of an edit, and whether one is own."""

MARKER = "<!-- ftj plan -->"
LONGEST = 60000
"""Characters; GitHub rejects a comment with more than 65536."""
PER_PAGE = 100


def main() -> int:
    """Write the comment; return the exit status."""
    with open("plan.md", encoding="utf-8") as file:
        plan = file.read()
    if len(plan) > LONGEST:
        plan = plan[:LONGEST] + "\n\nThe plan is longer: see plan.md of the pipeline."
    try:
        own = of_github() if "GITHUB_ACTIONS" in os.environ else of_gitlab()
        write(plan, own)
    except urllib.error.URLError as error:
        print(f"comment.py: no comment is written ({error}): check the token", file=sys.stderr)
        return 1
    return 0


def of_github() -> Platform:
    """Return how comments of a pull request are read and written."""
    api = f"{os.environ['GITHUB_API_URL']}/repos/{os.environ['GITHUB_REPOSITORY']}/issues"
    author = os.environ.get("PLAN_AUTHOR", "github-actions[bot]")
    headers = {"Authorization": f"Bearer {os.environ['GH_TOKEN']}"}
    comments = f"{api}/{os.environ['NUMBER']}/comments"
    return headers, comments, f"{api}/comments", "PATCH", lambda by: by["user"]["login"] == author


def of_gitlab() -> Platform:
    """Return how notes of a merge request are read and written. Raises HTTPError."""
    api = os.environ["CI_API_V4_URL"]
    request = os.environ["CI_MERGE_REQUEST_IID"]
    notes = f"{api}/projects/{os.environ['CI_PROJECT_ID']}/merge_requests/{request}/notes"
    headers = {"PRIVATE-TOKEN": os.environ["PLAN_TOKEN"]}
    author = answer("GET", f"{api}/user", headers)["id"]
    return headers, notes, notes, "PUT", lambda by: by["author"]["id"] == author


def write(plan: str, platform: Platform) -> None:
    """Edit the comment of an earlier run, or write the first one. Raises HTTPError."""
    headers, comments, one, method, is_own = platform
    page = 1
    while listed := answer("GET", f"{comments}?per_page={PER_PAGE}&page={page}", headers):
        for comment in listed:
            if comment["body"].startswith(MARKER) and is_own(comment):
                answer(method, f"{one}/{comment['id']}", headers, {"body": plan})
                return
        page += 1
    answer("POST", comments, headers, {"body": plan})


def answer(method: str, address: str, headers: Headers, body: dict[str, str] | None = None) -> Any:
    """Return the JSON with which a server answers. Raises HTTPError."""
    data = None if body is None else json.dumps(body).encode()
    headers = {**headers, "Content-Type": "application/json", "User-Agent": "ftj-plan"}
    request = urllib.request.Request(address, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


if __name__ == "__main__":
    sys.exit(main())
