"""The verbs on objects, which are plain dicts: what there is to ask of an API server.

How a request is sent, and what its answer means, is in ``transport``.
"""

from collections.abc import AsyncGenerator
from typing import Literal

from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.kube import auth
from finetune_operator.kube.errors import NotFound, Terminal
from finetune_operator.kube.kinds import KINDS, path_of
from finetune_operator.kube.transport import JSON, Transport
from finetune_operator.types import Object

FIELD_MANAGER = "finetune-operator"
PAGE = 500
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
WATCH_SECONDS = 300

Page = list[Object]
Propagation = Literal["Foreground", "Background", "Orphan"]


class Kube:
    """One API server. Every verb raises OperatorError."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    @classmethod
    async def connect(cls) -> "Kube":
        """Read configuration and credentials. Raises OperatorError where there are none."""
        configuration = Configuration()
        await auth.read(configuration)
        api = ApiClient(configuration)
        api.user_agent = FIELD_MANAGER
        return cls(Transport(api))

    async def close(self) -> None:
        """Close the connections."""
        await self.transport.close()

    async def require_served(self) -> None:
        """Make sure that the API server knows FineTuneJobs. Raises Terminal if not."""
        kind = KINDS["FineTuneJob"]
        try:
            found = await self.transport.call("GET", f"/apis/{kind.api_version}")
            served = {resource["name"] for resource in found.get("resources") or ()}
        except NotFound:
            served = set()
        missing = {kind.plural, f"{kind.plural}/status"} - served
        if missing:
            raise Terminal(
                f"the API server does not serve {' and '.join(sorted(missing))} of "
                f"{kind.api_version}; install the CRD: kubectl apply --server-side -f "
                "crds/finetune.dev_finetunejobs.yaml",
                reason=Reason.CRD_MISSING,
            )

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return an object, None where there is none."""
        try:
            return await self.transport.call("GET", KINDS[kind].path(namespace, name))
        except NotFound:
            return None

    async def list(
        self, kind: str, namespace: str = "", *, labels: str = "", fields: str = "", limit: int = 0
    ) -> tuple[Object, ...]:
        """Return the objects of a namespace, or of all, that the selectors match.

        ``limit`` ends the list early; without it all pages are read.
        """
        found: list[Object] = []
        async for page in self.pages(kind, namespace, labels=labels, fields=fields, size=limit):
            found += page
            if limit:
                break
        return tuple(found)

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
        """Yield the pages of a list, each of ``size`` objects or fewer. Raises OperatorError."""
        path = KINDS[kind].path(namespace)
        if not namespace:
            path = path.replace("/namespaces/", "", 1)
        query = {"limit": str(size or PAGE)}
        query |= {"labelSelector": labels} if labels else {}
        query |= {"fieldSelector": fields} if fields else {}
        # Items of a list come without the two fields that every object has.
        common = {"apiVersion": KINDS[kind].api_version, "kind": KINDS[kind].kind or kind}
        while True:
            accept = METADATA_ONLY if metadata_only else JSON
            page = await self.transport.call("GET", path, query=query, accept=accept)
            yield [{**item, **common} for item in page.get("items") or ()]
            rest = page.get("metadata", {}).get("continue")
            if not rest:
                return
            query["continue"] = rest

    def watch(
        self, kind: str, namespace: str, name: str, *, since: str
    ) -> AsyncGenerator[Object, None]:
        """Yield what happens to one object, as ``{"type": …, "object": …}``, until the stream ends.

        since: the resourceVersion after which it begins. Raises OperatorError.
        """
        path = KINDS[kind].path(namespace)
        query = {
            "watch": "1",
            "fieldSelector": f"metadata.name={name}",
            "resourceVersion": since,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        return self.transport.stream(path, query, seconds=WATCH_SECONDS + 30)

    async def create(self, body: Object, *, fenced: bool = True) -> Object:
        """Create an object. Raises Conflict where the name is taken."""
        namespace = body["metadata"]["namespace"]
        return await self.transport.call(
            "POST",
            KINDS[body["kind"]].path(namespace),
            query={"fieldManager": FIELD_MANAGER},
            body=body,
            fenced=fenced,
        )

    async def replace(self, body: Object, *, seconds: float) -> Object:
        """Replace an object that was observed, unfenced: for the Lease that is the fence.

        Raises Conflict where it is not as observed any more.
        """
        return await self.transport.call(
            "PUT",
            path_of(body),
            query={"fieldManager": FIELD_MANAGER},
            body=body,
            fenced=False,
            seconds=seconds,
        )

    async def apply(self, body: Object) -> Object:
        """Apply an object server-side, taking over the fields that it names.

        Raises Conflict where ``metadata.uid`` or ``metadata.resourceVersion`` is in it and is not
        the present one.
        """
        return await self.transport.call(
            "PATCH",
            path_of(body),
            query={"fieldManager": FIELD_MANAGER, "force": "true"},
            body=body,
            content_type="application/apply-patch+yaml",
        )

    async def merge(self, target: Object, patch: Object) -> Object:
        """Merge-patch the object."""
        return await self.transport.call(
            "PATCH",
            path_of(target),
            query={"fieldManager": FIELD_MANAGER},
            body=patch,
            content_type="application/merge-patch+json",
        )

    async def delete(self, target: Object, *, propagation: Propagation) -> None:
        """Delete exactly the object that was observed; one that is gone is success.

        Raises Conflict where it is not as observed any more. The propagation is always named: a Job
        deleted without one leaves its pods running.
        """
        metadata = target["metadata"]
        preconditions = {key: metadata[key] for key in ("uid", "resourceVersion")}
        body = {"propagationPolicy": propagation, "preconditions": preconditions}
        try:
            await self.transport.call("DELETE", path_of(target), body=body)
        except NotFound:
            return

    async def scale(self, target: Object, replicas: int) -> Object:
        """Set the replicas of exactly the object that was observed. Raises Conflict."""
        metadata = {key: target["metadata"][key] for key in ("uid", "resourceVersion")}
        return await self.transport.call(
            "PATCH",
            path_of(target) + "/scale",
            query={"fieldManager": FIELD_MANAGER},
            body={"metadata": metadata, "spec": {"replicas": replicas}},
            content_type="application/merge-patch+json",
        )

    async def replace_status(self, job: Object, status: Object) -> Object:
        """Write a status, if the object is as observed. Raises Conflict if it is not."""
        kept = ("name", "namespace", "uid", "resourceVersion")
        return await self.transport.call(
            "PUT",
            path_of(job) + "/status",
            query={"fieldManager": FIELD_MANAGER},
            body={
                "apiVersion": job["apiVersion"],
                "kind": job["kind"],
                "metadata": {key: job["metadata"][key] for key in kept},
                "spec": job["spec"],
                "status": status,
            },
        )
