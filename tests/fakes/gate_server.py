"""A gate as the operator sees it: its report at a port of this machine, which a test sets."""

import base64
import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from finetune_api.contracts.endpoint import EndpointStatus, NameStatus, WantedSet
from finetune_api.contracts.ports import VERIFIER_METRICS


class FakeGate:
    """Reports each wanted name as served, or in the state that a test gives it."""

    def __init__(self) -> None:
        self.address = f"127.{secrets.randbelow(254) + 1}.{secrets.randbelow(254)}.77"
        """Of the pod. The port is fixed, so each gate has an address of its own."""
        self.pod = ""
        self.wanted: WantedSet | None = None
        self.states: dict[str, Any] = {}
        """By name of the job."""
        self.boot = "boot-1"
        self.sent = 0
        """Lists that the operator has sent."""

    def report(self) -> EndpointStatus:
        """Return the report."""
        assert self.wanted is not None
        return EndpointStatus(
            endpoint=self.wanted.endpoint,
            pod=self.pod,
            sequence=self.wanted.sequence,
            boot=self.boot,
            self_test="the base agrees while an adapter decodes",
            free=1,
            names=tuple(
                NameStatus(
                    name=each.name,
                    job=each.job,
                    revision=each.revision,
                    adapter=each.adapter,
                    attempt=each.attempt,
                    state=self.states.get(each.job, "Serving"),
                    **(
                        {"message": "a planted fault"}
                        if each.job in self.states
                        else {
                            "answers": each.adapter,
                            "boot": self.boot,
                            "outcome": "Verified",
                            "distance": 0.01,
                            "tolerance": 0.05,
                        }
                    ),
                )
                for each in self.wanted.names
            ),
        )


@contextmanager
def serving() -> Iterator[FakeGate]:
    """Serve the report of a gate at the port of the operator."""
    gate = FakeGate()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/status" and gate.wanted is not None
            body = gate.report().model_dump_json(by_alias=True).encode() if known else b""
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_PUT(self) -> None:
            document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            payload = base64.b64decode(document["payload"])
            gate.wanted = WantedSet.model_validate_json(payload, by_name=False)
            gate.sent += 1
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer((gate.address, VERIFIER_METRICS), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield gate
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
