"""The comments of one merge request, in the API of GitHub and in that of GitLab."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

TOKEN = "secret"
REQUEST = 5
"""Number of the merge request."""


def imitation() -> dict[str, Any]:
    """Return a comment of another user that begins like a plan."""
    by = {"user": {"login": "mallory"}, "author": {"id": 9}}
    return {"id": 0, "body": "<!-- ftj plan -->\nharmless", **by}


@dataclass(kw_only=True)
class Platform:
    """A server on localhost, whose request has a comment that imitates the plan."""

    address: str = ""
    comments: list[dict[str, Any]] = field(default_factory=lambda: [imitation()])
    requests: list[str] = field(default_factory=list)

    def variables(self, name: str) -> dict[str, str]:
        """Return the variables that ``github`` or ``gitlab`` set in a pipeline."""
        if name == "github":
            return {
                "GITHUB_ACTIONS": "true",
                "GITHUB_API_URL": self.address,
                "GITHUB_REPOSITORY": "org/jobs",
                "GITHUB_BASE_REF": "main",
            }
        return {
            "CI_API_V4_URL": self.address,
            "CI_PROJECT_ID": "3",
            "CI_MERGE_REQUEST_IID": str(REQUEST),
            "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main",
            "PLAN_TOKEN": TOKEN,
        }


@contextmanager
def serving() -> Iterator[Platform]:
    """Run a platform until the end of the block."""
    platform = Platform()

    class Handler(_Handler):
        served = platform

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    platform.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield platform
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: Platform

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/user":
            return self.reply({"id": 7})
        # Each page has one comment, to have several.
        page = int(parse_qs(query)["page"][0])
        return self.reply(self.served.comments[page - 1 : page])

    def do_POST(self) -> None:
        own = {"user": {"login": "github-actions[bot]"}, "author": {"id": 7}}
        comments = self.served.comments
        comments.append({"id": len(comments), "body": self.body()["body"], **own})
        self.reply({})

    def do_PATCH(self) -> None:
        number = int(self.path.rpartition("/")[2])
        self.served.comments[number] |= self.body()
        self.reply({})

    do_PUT = do_PATCH

    def body(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def reply(self, answer: Any) -> None:
        token = self.headers.get("Authorization") or self.headers.get("PRIVATE-TOKEN")
        self.served.requests.append(f"{self.command} {self.path.partition('?')[0]} {token}")
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass
