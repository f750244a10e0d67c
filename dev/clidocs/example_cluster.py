"""The API server of the examples: it lists, returns and patches a few objects."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from clidocs import tables
from clidocs.example_jobs import Object
from clidocs.example_objects import COLLECTIONS
from finetune_cli.cluster.rollback import merged

LOG = (
    "09:11:52 training 1,200 rows in 300 steps on NVIDIA-A10G\n"
    "09:14:37 step 40/300: loss 1.4371, learning rate 0.0002\n"
    "09:17:08 CUDAOutOfMemory: step 74 needs more GPU memory than the 22.0 GiB of the GPU\n"
)


class _Handler(BaseHTTPRequestHandler):
    collections: Mapping[str, list[Object]]

    def log_message(self, format: str, *args: object) -> None:
        """Suppress the log."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path.endswith("/log"):
            pod = self._object(parts.path.removesuffix("/log"))
            log = LOG if pod and pod["spec"]["nodeName"] else ""
            lines = log.splitlines(keepends=True)[-int(query.get("tailLines", 99)) :]
            body = "".join(lines).encode()
            self._answer(200, body[: int(query.get("limitBytes", len(body)))])
        elif parts.path in self.collections:
            items = [
                object_ for object_ in self.collections[parts.path] if _matches(object_, query)
            ]
            as_table = "as=Table" in self.headers.get("Accept", "")
            listing = tables.table(items, query) if as_table else {"items": items}
            self._answer(200, json.dumps(listing).encode())
        else:
            single = self._object(parts.path)
            self._answer(404 if single is None else 200, json.dumps(single or {}).encode())

    def do_POST(self) -> None:
        object_ = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = urlsplit(self.path).path
        if path in self.collections:
            object_["metadata"] |= {"uid": f"uid-{object_['metadata']['name']}", "generation": 1}
            self.collections[path].append(object_)
        else:
            object_ = {"status": {"allowed": True}}
        self._answer(201, json.dumps(object_).encode())

    def do_PATCH(self) -> None:
        object_ = self._object(urlsplit(self.path).path)
        assert object_ is not None
        patch = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        object_.update(merged(object_, patch))
        self._answer(200, json.dumps(object_).encode())

    def _object(self, path: str) -> Object | None:
        folder, _, name = path.rpartition("/")
        objects = self.collections.get(folder, ())
        return next((object_ for object_ in objects if object_["metadata"]["name"] == name), None)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _matches(object_: Object, query: Mapping[str, str]) -> bool:
    """Report whether an object has the labels, or is about the object, of a query."""
    labels = object_["metadata"].get("labels") or {}
    wanted = [term.split("=") for term in query.get("labelSelector", "").split(",") if term]
    fields = dict(term.split("=") for term in query.get("fieldSelector", "").split(",") if term)
    about = fields.get("involvedObject.uid")
    return all(labels.get(name) == value for name, value in wanted) and about in (
        None,
        (object_.get("involvedObject") or {}).get("uid"),
    )


@contextmanager
def serving(objects: Mapping[str, list[Object]] = COLLECTIONS) -> Iterator[str]:
    """Run the server until the end of the block, and yield its URL. objects: by path."""

    class Handler(_Handler):
        collections = copy.deepcopy(objects)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
