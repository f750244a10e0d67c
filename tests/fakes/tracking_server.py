"""An MLflow tracking server in memory: the endpoints for runs and registered models, with faults.

It verifies what the real server verifies: names and limits of entries, parameters that never
change, and names that exist. It keeps each metric that it is sent, also a repeated one.
"""

import base64
import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEY = re.compile(r"[\w\-. /:]{1,250}")
API = "/api/2.0/mlflow/"
PAGE = 100
"""Points of a metric in one answer."""


@dataclass
class Run:
    id: str
    experiment: str
    name: str
    start_time: int
    status: str = "RUNNING"
    end_time: int | None = None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)

    def points(self, key: str) -> list[tuple[int, float]]:
        return [(each["step"], each["value"]) for each in self.metrics if each["key"] == key]


@dataclass
class TrackingServer:
    url: str = ""
    experiments: dict[str, str] = field(default_factory=dict)
    """IDs by name."""
    deleted: set[str] = field(default_factory=set)
    runs: list[Run] = field(default_factory=list)
    models: set[str] = field(default_factory=set)
    versions: list[dict[str, str]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    answers: list[tuple[str, int, str]] = field(default_factory=list)
    """The next answers to requests with a part of the path: status, text."""
    lost: list[str] = field(default_factory=list)
    """Parts of the paths of the next requests that are done, but whose answer is lost."""
    headers: dict[str, str] = field(default_factory=dict)
    """Further headers of all answers."""
    authorization: str | None = None
    """The header that requests need."""
    on_request: Callable[[str], None] | None = None
    """Called with the path before each answer."""

    def reset(self) -> None:
        for name, value in vars(TrackingServer(url=self.url)).items():
            setattr(self, name, value)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@contextmanager
def serving(context: ssl.SSLContext) -> Iterator[TrackingServer]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    found = server.found = TrackingServer(url=f"https://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    found: TrackingServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that were killed."""


class _Refusal(Exception):
    def __init__(self, code: str, message: str, status: int = 400) -> None:
        self.code, self.message, self.status = code, message, status


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_message(self, format: str, *args: object) -> None:
        """Suppress the log."""

    @property
    def found(self) -> TrackingServer:
        server = self.server
        assert isinstance(server, _Server)
        return server.found

    def _handle(self) -> None:
        found, parts = self.found, urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = parts.path.removeprefix(API)
        found.requests.append(f"{self.command} {path}")
        if found.on_request is not None:
            found.on_request(path)
        for index, (part, status, text) in enumerate(found.answers):
            if part in path:
                del found.answers[index]
                self._answer(status, text.encode())
                return
        try:
            if found.authorization not in (None, self.headers.get("Authorization")):
                raise _Refusal("UNAUTHENTICATED", "You are not authenticated.", 401)
            given: dict[str, Any]
            if self.command == "GET":
                given = {name: values[0] for name, values in parse_qs(parts.query).items()}
            else:
                assert self.headers["Content-Type"] == "application/json"
                given = json.loads(body)
            action = _ACTIONS.get((self.command, path))
            if action is None or not parts.path.startswith(API):
                raise _Refusal("ENDPOINT_NOT_FOUND", "not found", 404)
            done = action(found, given)
            for part in found.lost:
                if part in path:
                    found.lost.remove(part)
                    self._answer(502, b"Bad Gateway")
                    return
            self._answer(200, json.dumps(done).encode())
        except _Refusal as refusal:
            refused = {"error_code": refusal.code, "message": refusal.message}
            self._answer(refusal.status, json.dumps(refused).encode())

    do_GET = do_POST = _handle

    def _answer(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in self.found.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _get_experiment(server: TrackingServer, given: dict[str, Any]) -> dict[str, Any]:
    name = given["experiment_name"]
    if name not in server.experiments:
        raise _Refusal("RESOURCE_DOES_NOT_EXIST", f"Could not find experiment {name}", 404)
    stage = "deleted" if name in server.deleted else "active"
    return {"experiment": {"experiment_id": server.experiments[name], "lifecycle_stage": stage}}


def _create_experiment(server: TrackingServer, given: dict[str, Any]) -> dict[str, Any]:
    if given["name"] in server.experiments:
        raise _Refusal("RESOURCE_ALREADY_EXISTS", "Experiment already exists.")
    server.experiments[given["name"]] = str(len(server.experiments) + 1)
    return {"experiment_id": server.experiments[given["name"]]}


def _search_runs(server: TrackingServer, given: dict[str, Any]) -> dict[str, Any]:
    found = re.fullmatch(r"tags\.`([^`]+)` = '([^']*)'", given["filter"])
    if found is None:
        raise _Refusal("INVALID_PARAMETER_VALUE", f"Invalid filter {given['filter']}")
    runs = [
        each
        for each in server.runs
        if each.experiment in given["experiment_ids"] and each.tags.get(found[1]) == found[2]
    ]
    # Like the real server, an answer without runs has no such field.
    return {"runs": [_rendered(each) for each in runs[: given["max_results"]]]} if runs else {}


def _create_run(server: TrackingServer, given: dict[str, Any]) -> dict[str, Any]:
    if given["experiment_id"] not in server.experiments.values():
        raise _Refusal("RESOURCE_DOES_NOT_EXIST", "No experiment", 404)
    run = Run(
        id=f"{len(server.runs):032x}",
        experiment=given["experiment_id"],
        name=given["run_name"],
        start_time=given["start_time"],
        tags={each["key"]: each["value"] for each in given["tags"]},
    )
    server.runs.append(run)
    return {"run": _rendered(run)}


def _log_batch(server: TrackingServer, given: dict[str, Any]) -> dict[str, Any]:
    run = _run(server, given)
    lists = {name: given.get(name, []) for name in ("params", "tags", "metrics")}
    limits = {"params": 100, "tags": 100, "metrics": 1000}
    if sum(map(len, lists.values())) > 1000 or any(
        len(each) > limits[name] for name, each in lists.items()
    ):
        raise _Refusal("INVALID_PARAMETER_VALUE", "A batch logging request has too many entries")
    for each in [entry for entries in lists.values() for entry in entries]:
        if KEY.fullmatch(each["key"]) is None:
            raise _Refusal("INVALID_PARAMETER_VALUE", f"Invalid name {each['key']!r}")
    for each in lists["params"]:
        if not isinstance(each["value"], str) or len(each["value"]) > 500:
            raise _Refusal("INVALID_PARAMETER_VALUE", "A parameter is too long")
        if run.params.setdefault(each["key"], each["value"]) != each["value"]:
            raise _Refusal("INVALID_PARAMETER_VALUE", "Changing param values is not allowed.")
    for each in lists["metrics"]:
        assert {type(each["timestamp"]), type(each["step"])} == {int}
        assert isinstance(each["value"], float)
    run.metrics += lists["metrics"]
    run.tags |= {each["key"]: each["value"] for each in lists["tags"]}
    return {}


def _update_run(server: TrackingServer, given: dict[str, Any]) -> dict[str, Any]:
    run = _run(server, given)
    run.status, run.end_time = given["status"], given["end_time"]
    return {"run_info": _rendered(run)["info"]}


def _history(server: TrackingServer, given: dict[str, Any]) -> dict[str, Any]:
    points = [each for each in _run(server, given).metrics if each["key"] == given["metric_key"]]
    first = int(given.get("page_token", 0))
    # Numbers of 64 bits may be texts in the JSON of the real server.
    page = [each | {"step": str(each["step"])} for each in points[first : first + PAGE]]
    more = {"next_page_token": str(first + PAGE)} if len(points) > first + PAGE else {}
    return {"metrics": page, **more}


def _create_model(server: TrackingServer, given: dict[str, Any]) -> dict[str, Any]:
    if given["name"] in server.models:
        raise _Refusal("RESOURCE_ALREADY_EXISTS", "Registered Model already exists.")
    server.models.add(given["name"])
    return {"registered_model": {"name": given["name"]}}


def _search_versions(server: TrackingServer, given: dict[str, Any]) -> dict[str, Any]:
    found = re.fullmatch(r"name='((?:[^']|'')*)' and run_id='([^']*)'", given["filter"])
    if found is None:
        raise _Refusal("INVALID_PARAMETER_VALUE", f"Invalid filter {given['filter']}")
    wanted = (found[1].replace("''", "'"), found[2])
    versions = [each for each in server.versions if (each["name"], each["run_id"]) == wanted]
    return {"model_versions": versions} if versions else {}


def _create_version(server: TrackingServer, given: dict[str, Any]) -> dict[str, Any]:
    if given["name"] not in server.models:
        raise _Refusal("RESOURCE_DOES_NOT_EXIST", "No such registered model", 404)
    count = sum(each["name"] == given["name"] for each in server.versions)
    server.versions.append({**given, "version": str(count + 1)})
    return {"model_version": server.versions[-1]}


def _run(server: TrackingServer, given: dict[str, Any]) -> Run:
    for each in server.runs:
        if each.id == given["run_id"]:
            return each
    raise _Refusal("RESOURCE_DOES_NOT_EXIST", "Run not found", 404)


def _rendered(run: Run) -> dict[str, Any]:
    return {
        "info": {"run_id": run.id, "run_name": run.name, "status": run.status},
        "data": {
            "params": [{"key": key, "value": value} for key, value in run.params.items()],
            "tags": [{"key": key, "value": value} for key, value in run.tags.items()],
        },
    }


_ACTIONS: dict[tuple[str, str], Callable[[TrackingServer, dict[str, Any]], dict[str, Any]]] = {
    ("GET", "experiments/get-by-name"): _get_experiment,
    ("POST", "experiments/create"): _create_experiment,
    ("POST", "runs/search"): _search_runs,
    ("POST", "runs/create"): _create_run,
    ("POST", "runs/log-batch"): _log_batch,
    ("POST", "runs/update"): _update_run,
    ("GET", "metrics/get-history"): _history,
    ("POST", "registered-models/create"): _create_model,
    ("GET", "model-versions/search"): _search_versions,
    ("POST", "model-versions/create"): _create_version,
}
