"""In-memory API server for tests of the order and the preconditions of writes.

It only stores objects. tests/integration tests all other behavior with a real API server.
"""

import itertools
import json
from collections.abc import Callable
from typing import Any

from tests.fakes.apiserver import merge

from finetune_operator.kube.client import Kube, Propagation
from finetune_operator.kube.errors import Conflict, NotFound, OperatorError
from finetune_operator.kube.kinds import KINDS
from finetune_operator.objects import naming
from finetune_operator.types import Object

_METADATA = ("apiVersion", "kind", "metadata")

Fault = Callable[[str, str, str], OperatorError | None]
"""Takes verb, kind and name of a write; returns the error to raise, or None."""


class MemoryKube(Kube):
    """Objects by (kind, namespace, name); ``calls`` are the writes as (verb, kind, name)."""

    def __init__(self, *objects: dict[str, Any]) -> None:
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.calls: list[tuple[str, str, str]] = []
        self.reads = 0
        self.fault: Fault = lambda verb, kind, name: None
        self._versions = itertools.count(1)
        for each in objects:
            self._store(dict(each))

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        self.reads += 1
        return self.objects.get((KINDS[kind].kind or kind, namespace, name))

    async def list(
        self,
        kind: str,
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        limit: int = 0,
        metadata_only: bool = False,
    ) -> tuple[Object, ...]:
        self.reads += 1
        selected = dict(pair.split("=") for pair in labels.split(",") if pair)
        return tuple(
            {key: each[key] for key in _METADATA} if metadata_only else each
            for (of_kind, of_namespace, _), each in self.objects.items()
            if of_kind == kind
            and namespace in ("", of_namespace)
            and selected.items() <= each["metadata"].get("labels", {}).items()
        )

    async def create(self, body: Object, *, fenced: bool = True) -> Object:
        self._write("create", body)
        if self._key(body) in self.objects:
            raise Conflict("409 already exists")
        return self._store(dict(body))

    async def apply(self, body: Object) -> Object:
        self._write("apply", body)
        existing = self.objects.get(self._key(body))
        self._fenced(body["metadata"], existing)
        if existing is not None:
            merged = {**existing, **body, "metadata": {**existing["metadata"], **body["metadata"]}}
            if merged == existing:
                return existing
            return self._store(merged)
        return self._store(dict(body))

    async def merge(self, target: Object, patch: Object) -> Object:
        self._write("merge", target)
        existing = self.objects[self._key(target)]
        self._fenced(patch.get("metadata", {}), existing)
        merged = json.loads(json.dumps(existing))
        merge(merged, patch, nulls_remove=True)
        return self._store(merged)

    async def scale(self, target: Object, replicas: int) -> Object:
        self._write("scale", target)
        existing = self.objects[self._key(target)]
        return self._store({**existing, "spec": {**existing["spec"], "replicas": replicas}})

    async def delete(self, target: Object, *, propagation: Propagation) -> None:
        self._write(f"delete {propagation}", target)
        existing = self.objects.get(self._key(target))
        if existing is not None:
            self._fenced(target["metadata"], existing)
            del self.objects[self._key(target)]

    async def replace_status(self, job: Object, status: Object) -> Object:
        self._write("status", job)
        existing = self.objects.get(self._key(job))
        if existing is None:
            raise NotFound("404")
        self._fenced(job["metadata"], existing)
        return self._store({**existing, "status": status})

    def touch(self, kind: str, namespace: str, name: str, **changes: Any) -> None:
        """Change an object like another client."""
        self._store({**self.objects[kind, namespace, name], **changes})

    def _write(self, verb: str, body: Object) -> None:
        call = (verb, body["kind"], body["metadata"]["name"])
        self.calls.append(call)
        if (error := self.fault(*call)) is not None:
            raise error

    def _store(self, body: dict[str, Any]) -> Object:
        version = next(self._versions)
        metadata = {
            "uid": f"uid-{version}",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            **body["metadata"],
            "resourceVersion": str(version),
        }
        stored: dict[str, Any] = json.loads(json.dumps({**body, "metadata": metadata}))
        self.objects[self._key(body)] = stored
        return stored

    @staticmethod
    def _fenced(metadata: Object, existing: Object | None) -> None:
        for field in ("uid", "resourceVersion"):
            expected = metadata.get(field)
            if expected and (existing is None or existing["metadata"][field] != expected):
                raise Conflict("409 the object has changed")

    @staticmethod
    def _key(body: Object) -> tuple[str, str, str]:
        metadata = body["metadata"]
        return body["kind"], metadata.get("namespace", ""), metadata["name"]


def job(**status: Any) -> dict[str, Any]:
    """Return a FineTuneJob named ``a/demo``."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "demo", "namespace": "a", "uid": "uid-of-demo", "generation": 1},
        "spec": {},
        "status": status,
    }


def child(kind: str, name: str, *, owner: str | None = "uid-of-demo", **more: Any) -> Any:
    """Return an object that is controlled by the FineTuneJob with the uid ``owner``."""
    references = [
        {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "name": "demo",
            "uid": owner,
            "controller": True,
        }
    ]
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": "a",
            "labels": {naming.MANAGER: naming.MANAGED_BY, naming.JOB: "demo"},
            **({"ownerReferences": references} if owner else {}),
        },
        "spec": {},
        **more,
    }
