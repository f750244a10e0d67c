"""Client for the API server: verbs on objects, which are plain dicts.

``transport`` sends the requests and maps responses to errors.
"""

from collections.abc import AsyncGenerator
from typing import Any, Literal, NamedTuple

from kubernetes.aio.client.configuration import Configuration

from finetune_api import API_VERSION, GROUP
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.kube import auth
from finetune_operator.kube.connection import JSON, Connection
from finetune_operator.kube.decoding import event_decoder, list_decoder
from finetune_operator.kube.errors import NotFound, Terminal, Transient
from finetune_operator.kube.kinds import KINDS, OWN_KINDS, path_of
from finetune_operator.kube.page_size import PAGE, PageSize, PageTooLarge
from finetune_operator.kube.transport import Transport
from finetune_operator.objects import naming
from finetune_operator.types import Object

FIELD_MANAGER = naming.MANAGED_BY
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
METADATA_ONLY_EVENTS = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
WATCH_SECONDS = 300
SILENCE_SECONDS = 70.0
"""Without any event; bookmarks arrive every 60 s."""

Propagation = Literal["Foreground", "Background", "Orphan"]


class Page(NamedTuple):
    """A page of a list; all pages have the resourceVersion of the list."""

    items: list[Object]
    version: str


class Kube:
    """Client for one API server. Every method raises OperatorError."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    @classmethod
    async def connect(cls) -> "Kube":
        """Return a client with the credentials of ``auth``. Raises Transient without any."""
        configuration = Configuration()
        await auth.load(configuration)
        return cls(Transport(Connection(configuration)))

    @property
    def server(self) -> str:
        """Host and port of the API server."""
        return self.transport.host

    async def close(self) -> None:
        """Close the connections."""
        await self.transport.close()

    async def require_crds(self) -> None:
        """Check that the API server serves all our own kinds. Raises Terminal if it does not."""
        try:
            discovery = await self.transport.call("GET", f"/apis/{API_VERSION}")
            served = {resource["name"] for resource in discovery.get("resources") or ()}
        except NotFound:
            served = set()
        needed = {kind.plural for kind in OWN_KINDS.values()}
        missing = (needed | {f"{plural}/status" for plural in needed}) - served
        if missing:
            files = sorted({f"-f crds/{GROUP}_{name.split('/')[0]}.yaml" for name in missing})
            raise Terminal(
                f"the API server does not serve {' and '.join(sorted(missing))} of {API_VERSION}. "
                f"To install the CRD, run: kubectl apply --server-side {' '.join(files)}",
                reason=Reason.CRD_MISSING,
            )

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return an object, None if it does not exist."""
        try:
            return _trimmed(await self._object("GET", KINDS[kind].path(namespace, name)))
        except NotFound:
            return None

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
        """Return the objects of a namespace, or of all namespaces, that the selectors match.

        limit: only the first page, of at most this size; 0 reads all pages.
        """
        objects: list[Object] = []
        async for page in self.pages(
            kind, namespace, labels=labels, fields=fields, size=limit, metadata_only=metadata_only
        ):
            objects += page.items
            if limit:
                break
        return tuple(objects)

    async def pages(
        self,
        kind: str,
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        size: int = 0,
        metadata_only: bool = False,
    ) -> AsyncGenerator[Page, None]:
        """Yield the pages of a list, each with at most ``size`` objects. Raises OperatorError.

        If objects are large, pages have fewer of them.
        """
        path = KINDS[kind].path(namespace)
        limit = PageSize(size, first=size) if size else PageSize(PAGE)
        query: dict[str, str] = {"labelSelector": labels} if labels else {}
        query |= {"fieldSelector": fields} if fields else {}
        # List items come without apiVersion and kind.
        common = {"apiVersion": KINDS[kind].api_version, "kind": KINDS[kind].kind or kind}
        accept = METADATA_ONLY if metadata_only else JSON
        decode = list_decoder(kind, metadata_only=metadata_only)
        while True:
            query["limit"] = str(limit.now)
            try:
                page = await self.transport.call(
                    "GET", path, query=query, accept=accept, size=limit, decode=decode
                )
            except PageTooLarge:
                continue
            if "items" not in page:
                # For example the page of a proxy: no conclusion from absent objects.
                raise Transient(f"GET {path}: not a list: {page.get('message')}")
            metadata = page.get("metadata") or {}
            # Only the caller holds the objects; a reflector frees them before it takes the next.
            yield Page(
                [_trimmed({**item, **common}) for item in page.pop("items") or ()],
                str(metadata.get("resourceVersion", "")),
            )
            token = metadata.get("continue")
            if not token:
                return
            query["continue"] = token

    def watch(
        self,
        kind: str,
        namespace: str,
        name: str = "",
        *,
        since: str,
        labels: str = "",
        metadata_only: bool = False,
    ) -> AsyncGenerator[Object, None]:
        """Yield the watch events ``{"type": …, "object": …}`` until the end. Raises OperatorError.

        name: of one object; without it, the objects of a namespace, or of all namespaces, that the
        selector matches are watched, and the watch fails if even bookmarks are missing. since: the
        resourceVersion after which events are sent.
        """
        query = {"watch": "1", "resourceVersion": since, "timeoutSeconds": str(WATCH_SECONDS)}
        query |= {"fieldSelector": f"metadata.name={name}"} if name else {}
        query |= {} if name else {"allowWatchBookmarks": "true"}
        query |= {"labelSelector": labels} if labels else {}
        return self.transport.stream(
            KINDS[kind].path(namespace),
            query,
            seconds=WATCH_SECONDS + 30,
            silence=None if name else SILENCE_SECONDS,
            accept=METADATA_ONLY_EVENTS if metadata_only else JSON,
            decode=event_decoder(kind, metadata_only=metadata_only),
        )

    async def create(self, body: Object, *, fenced: bool = True) -> Object:
        """Create an object. Raises Conflict if the name is taken."""
        return await self._object(
            "POST",
            KINDS[body["kind"]].path(body["metadata"].get("namespace", "")),
            query={"fieldManager": FIELD_MANAGER},
            body=body,
            fenced=fenced,
        )

    async def replace(self, body: Object, *, seconds: float) -> Object:
        """Replace an object without the write fence; only for the Lease, which is the fence.

        seconds: timeout. Raises Conflict if the object changed since it was read.
        """
        return await self._object(
            "PUT",
            path_of(body),
            query={"fieldManager": FIELD_MANAGER},
            body=body,
            fenced=False,
            seconds=seconds,
        )

    async def apply(self, body: Object) -> Object:
        """Apply an object server-side and force ownership of its fields.

        Raises Conflict if ``metadata.uid`` or ``metadata.resourceVersion`` is set and differs from
        that of the existing object.
        """
        return await self._object(
            "PATCH",
            path_of(body),
            query={"fieldManager": FIELD_MANAGER, "force": "true"},
            body=body,
            content_type="application/apply-patch+yaml",
        )

    async def merge(self, target: Object, patch: Object) -> Object:
        """Apply a JSON merge patch to the object."""
        return await self._object(
            "PATCH",
            path_of(target),
            query={"fieldManager": FIELD_MANAGER},
            body=patch,
            content_type="application/merge-patch+json",
        )

    async def delete(self, target: Object, *, propagation: Propagation) -> None:
        """Delete an object in the version that was read; an object that is gone is success.

        Raises Conflict if the object changed since. The propagation policy is always explicit: a
        Job that is deleted without one leaves its pods running.
        """
        metadata = target["metadata"]
        preconditions = {key: metadata[key] for key in ("uid", "resourceVersion")}
        body = {"propagationPolicy": propagation, "preconditions": preconditions}
        try:
            await self.transport.call("DELETE", path_of(target), body=body)
        except NotFound:
            return

    async def scale(self, target: Object, replicas: int) -> Object:
        """Set the replicas of an object in the version that was read. Raises Conflict."""
        metadata = {key: target["metadata"][key] for key in ("uid", "resourceVersion")}
        return await self._object(
            "PATCH",
            path_of(target) + "/scale",
            query={"fieldManager": FIELD_MANAGER},
            body={"metadata": metadata, "spec": {"replicas": replicas}},
            content_type="application/merge-patch+json",
        )

    async def replace_status(self, target: Object, status: Object) -> Object:
        """Replace the status of an object in the version that was read. Raises Conflict."""
        identity = target["metadata"].keys() & {"name", "namespace", "uid", "resourceVersion"}
        written = await self._object(
            "PUT",
            path_of(target) + "/status",
            query={"fieldManager": FIELD_MANAGER},
            body={
                "apiVersion": target["apiVersion"],
                "kind": target["kind"],
                "metadata": {key: target["metadata"][key] for key in sorted(identity)},
                "spec": target["spec"],
                "status": status,
            },
        )
        return _trimmed(written)

    async def _object(self, method: str, path: str, **request: Any) -> Object:
        """Send a request and return the object in its response. request: arguments of ``call``."""
        answer = await self.transport.call(method, path, **request)
        metadata = answer.get("metadata")
        if not isinstance(metadata, dict) or "resourceVersion" not in metadata:
            # For example the page of a proxy: whether a write took effect is unknown.
            raise Transient(f"{method} {path}: not an object: {answer.get('message')}")
        return answer


def _trimmed(body: Object) -> Object:
    """Return an object without annotations that the operator does not use; users may fill them."""
    metadata = body.get("metadata") or {}
    if "annotations" not in metadata:
        return body
    kept = {key: value for key, value in metadata.items() if key != "annotations"}
    if annotations := {**naming.own_annotations(body), **naming.noted(naming.note(body))}:
        kept["annotations"] = annotations
    if (node := naming.selected_node(body)) is not None:
        kept["annotations"] = {naming.SELECTED_NODE: node}
    return {**body, "metadata": kept}
