"""The way to the API server: a handful of verbs on plain dicts.

The official client (``kubernetes.aio``) sends the requests, with what ``login`` reads. Its
generated models are not used: they refuse fields that they do not know and cost thirty times as
much as the JSON.

Every call ends within ``TIMEOUT_SECONDS`` and raises nothing but what ``errors`` names. The client
never repeats a call; its user knows whether that is right.

``fence`` tells for how many seconds a write may be under way (``lease``): none is sent where that
is 0, and none is waited for longer.
"""

import asyncio
import json
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit

import aiohttp
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from finetune_operator import login, metrics
from finetune_operator.errors import (
    Conflict,
    NotFound,
    NotLeading,
    OperatorError,
    Terminal,
    Transient,
)
from finetune_operator.kinds import KINDS, path_of
from finetune_operator.state import Object

FIELD_MANAGER = "finetune-operator"
TIMEOUT_SECONDS = 10.0
PAGE = 500
JSON = "application/json"
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
WATCH_SECONDS = 300

Page = list[Object]
Propagation = Literal["Foreground", "Background", "Orphan"]


class Kube:
    """A connection to one API server."""

    def __init__(
        self,
        api: ApiClient,
        *,
        timeout: float = TIMEOUT_SECONDS,
        renew: Callable[[Configuration], Awaitable[None]] = login.read,
    ) -> None:
        self._api = api
        self._renew = renew
        self._host = urlsplit(api.configuration.host).netloc
        self._seconds = timeout
        self.fence: Callable[[], float] = lambda: math.inf

    @classmethod
    async def connect(cls) -> "Kube":
        """Read configuration and credentials. Raises OperatorError where there are none."""
        configuration = Configuration()
        await login.read(configuration)
        api = ApiClient(configuration)
        api.user_agent = FIELD_MANAGER
        return cls(api)

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def require_served(self) -> None:
        """Make sure that the API server knows FineTuneJobs. Raises Terminal if not."""
        kind = KINDS["FineTuneJob"]
        try:
            found = await self._call("GET", f"/apis/{kind.api_version}")
            served = {resource["name"] for resource in found.get("resources") or ()}
        except NotFound:
            served = set()
        missing = {kind.plural, f"{kind.plural}/status"} - served
        if missing:
            raise Terminal(
                f"the API server does not serve {' and '.join(sorted(missing))} of "
                f"{kind.api_version}; install the CRD: kubectl apply --server-side -f "
                "crds/finetune.dev_finetunejobs.yaml",
                reason="CrdMissing",
            )

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return an object, None where there is none."""
        try:
            return await self._call("GET", KINDS[kind].path(namespace, name))
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
            page = await self._call("GET", path, query=query, accept=accept)
            yield [{**item, **common} for item in page.get("items") or ()]
            rest = page.get("metadata", {}).get("continue")
            if not rest:
                return
            query["continue"] = rest

    async def watch(
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
        limit = aiohttp.ClientTimeout(total=WATCH_SECONDS + 30, connect=self._seconds)
        try:
            answer = await self._send("GET", path, query, None, JSON, JSON, limit)
            if answer.status >= 300:
                raise error_of("WATCH", path, answer.status, _decoded(await answer.read()))
            async for line in answer.response.content:
                yield _decoded(line)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Transient(f"WATCH {path}: {str(error) or type(error).__name__}") from error

    async def create(self, body: Object, *, fenced: bool = True) -> Object:
        """Create an object. Raises Conflict where the name is taken."""
        namespace = body["metadata"]["namespace"]
        return await self._call(
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
        return await self._call(
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
        return await self._call(
            "PATCH",
            path_of(body),
            query={"fieldManager": FIELD_MANAGER, "force": "true"},
            body=body,
            content_type="application/apply-patch+yaml",
        )

    async def merge(self, target: Object, patch: Object) -> Object:
        """Merge-patch the object."""
        return await self._call(
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
            await self._call("DELETE", path_of(target), body=body)
        except NotFound:
            return

    async def scale(self, target: Object, replicas: int) -> Object:
        """Set the replicas of exactly the object that was observed. Raises Conflict."""
        metadata = {key: target["metadata"][key] for key in ("uid", "resourceVersion")}
        return await self._call(
            "PATCH",
            path_of(target) + "/scale",
            query={"fieldManager": FIELD_MANAGER},
            body={"metadata": metadata, "spec": {"replicas": replicas}},
            content_type="application/merge-patch+json",
        )

    async def replace_status(self, job: Object, status: Object) -> Object:
        """Write a status, if the object is as observed. Raises Conflict if it is not."""
        kept = ("name", "namespace", "uid", "resourceVersion")
        return await self._call(
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

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Object | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        fenced: bool = True,
        seconds: float | None = None,
    ) -> dict[str, Any]:
        code, started = "<error>", time.monotonic()
        seconds = self._seconds if seconds is None else seconds
        if fenced and method != "GET":
            seconds = min(seconds, self.fence())
            if seconds <= 0:
                raise NotLeading(f"{method} {path}: not sent, this replica does not lead any more")
        try:
            # Not by the client's own timeout: it rounds up to whole seconds.
            async with asyncio.timeout(seconds):
                limit = aiohttp.ClientTimeout(total=None, connect=self._seconds / 2)
                answer = await self._send(method, path, query, body, content_type, accept, limit)
                text = await answer.read()
                code = str(answer.status)
                if answer.status == 401:
                    await self._renew(self._api.configuration)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            cause = str(error) or type(error).__name__
            raise Transient(f"{method} {path}: {cause}") from error
        finally:
            metrics.REQUESTS.labels(code, method, self._host).inc()
            metrics.REQUEST_SECONDS.labels(method, self._host).observe(time.monotonic() - started)
        decoded = _decoded(text)
        if answer.status >= 300:
            after = answer.headers.get("Retry-After", "")
            raise error_of(method, path, answer.status, decoded, after)
        return decoded

    async def _send(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None,
        body: Object | None,
        content_type: str,
        accept: str,
        limit: aiohttp.ClientTimeout,
    ) -> Any:
        request = await self._api.param_serialize(
            method,
            path,
            query_params=None,
            header_params={"Accept": accept, "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        verb, url, headers, content, _ = request
        url += f"?{urlencode(query)}" if query else ""
        return await self._api.call_api(verb, url, headers, content, _request_timeout=limit)


def error_of(
    method: str, path: str, status: int, answer: Object, retry_after: str = ""
) -> OperatorError:
    """Return what an HTTP status that is not a success means.

    answer: the Status object of the API server, or anything else as ``message``.
    """
    said = str(answer.get("message") or "no explanation")
    message = f"{method} {path}: {status} {said}"
    if status == 404:
        return NotFound(message)
    if status == 409:
        return Conflict(message)
    if status == 403 and "exceeded quota" in said:
        return Terminal(said, reason="QuotaExceeded")
    # 401: the token was exchanged a moment ago, or is being so. 410: a list took too long.
    if status in (401, 408, 410, 429) or status >= 500 or 300 <= status < 400:
        seconds = float(retry_after) if retry_after.isdigit() else None
        return Transient(message, retry_after=seconds)
    return Terminal(said)


def _decoded(text: bytes) -> dict[str, Any]:
    try:
        decoded = json.loads(text)
    except ValueError:
        return {"message": text.decode(errors="replace")[:1000]}
    return decoded if isinstance(decoded, dict) else {"message": str(decoded)[:1000]}
