"""The API server of a kubeconfig, with the user's own rights. Every error is one line.

Objects are dicts, as the server sends them: an object of another version of the API is no error.
"""

import codecs
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import urllib3
import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from finetune_api import GROUP, KIND, PLURAL
from finetune_api.safety.printable import printable
from finetune_cli.errors import CommandFailed

LONGEST_LINE = 1 << 20
CONNECT_SECONDS, READ_SECONDS = 5.0, 30.0
JOBS = f"/apis/{GROUP}/v1alpha1"
NO_API = f"the cluster has no {KIND} API: install the operator, or set --context"
JSON, MERGE = "application/json", "application/merge-patch+json"
ANY = "application/json, */*"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
"""The rows and columns that kubectl prints, instead of objects."""


class Forbidden(CommandFailed):
    """The user does not have the right."""


class Unauthenticated(CommandFailed):
    """The API server rejects the credentials."""


class NotFound(CommandFailed):
    """The object does not exist."""


class Conflict(CommandFailed):
    """The object is not the one that was read."""


class Expired(CommandFailed):
    """The API server does not know the state of the cluster any more with which a list began."""


class Unreachable(CommandFailed):
    """The API server does not answer."""


def path(kind: str, namespace: str | None = None, name: str = "", *, api: str = "/api/v1") -> str:
    """Return the path of a collection or of an object. ``namespace`` None: all namespaces."""
    where = "" if namespace is None else f"/namespaces/{quote(namespace, safe='')}"
    return f"{api}{where}/{kind}" + (f"/{quote(name, safe='')}" if name else "")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """An API server, and the namespace of the user's context."""

    api: client.ApiClient
    namespace: str
    context: str
    shared: bool = False
    """Whether the process runs in a pod, for several users: it has no kubeconfig, and reads nothing
    but the API server."""

    @classmethod
    def of(cls, kubeconfig: Path | None, context: str | None, namespace: str | None) -> "Cluster":
        """Return the cluster of a kubeconfig. Raises CommandFailed if it cannot be read."""
        file = None if kubeconfig is None else str(kubeconfig)
        settings = client.Configuration()
        try:
            contexts, current = config.list_kube_config_contexts(file)
            chosen = context or current["name"]
            config.load_kube_config(file, context=chosen, client_configuration=settings)
        except (config.ConfigException, OSError, ValueError, TypeError, yaml.YAMLError) as error:
            raise CommandFailed(
                f"the kubeconfig cannot be used ({printable(str(error))}): correct "
                f"{file or '$KUBECONFIG or ~/.kube/config'}, or set --kubeconfig or --context"
            ) from None
        settings.retries = False
        details: dict[str, Any] = next(
            (entry["context"] for entry in contexts if entry["name"] == chosen), {}
        )
        return cls(
            api=client.ApiClient(settings),
            namespace=namespace or details.get("namespace") or "default",
            context=chosen,
        )

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """Return an object or a list. Raises CommandFailed."""
        return _decoded(self._send("GET", _with(path, query)))

    def table(self, path: str, **query: Any) -> dict[str, Any]:
        """Return a list as a Table: the columns of kubectl. Raises CommandFailed."""
        return _decoded(self._send("GET", _with(path, query), accept=TABLE))

    def items(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """Return the objects of a collection. Raises CommandFailed."""
        objects: list[dict[str, Any]] = self.get(path, **query).get("items") or []
        return objects

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object, such as a review of rights; return it. Raises CommandFailed."""
        return _decoded(self._send("POST", path, body))

    def job(self, name: str) -> dict[str, Any]:
        """Return a FineTuneJob of the namespace. Raises NotFound with the next step."""
        try:
            return self.get(path(PLURAL, self.namespace, name, api=JOBS))
        except NotFound as error:
            raise self._explained(error, name) from None

    def jobs(self) -> list[dict[str, Any]]:
        """Return the FineTuneJobs of the namespace. Raises CommandFailed."""
        try:
            return self.items(path(PLURAL, self.namespace, api=JOBS))
        except NotFound:
            raise NotFound(NO_API) from None

    def visible(self, path: str, selector: str) -> list[dict[str, Any]]:
        """Return the objects with labels that the user may list; empty without the right.

        For what completes an answer. Raises CommandFailed.
        """
        try:
            return self.items(path, labelSelector=selector)
        except Forbidden:
            return []

    def patch_job(self, read: Mapping[str, Any], change: Mapping[str, Any]) -> None:
        """Change fields of a FineTuneJob by a merge patch. Raises CommandFailed.

        read: the object that the change was decided on. The spec must still be the same.
        """
        name = read["metadata"]["name"]
        where = path(PLURAL, self.namespace, name, api=JOBS)
        present = read
        while _spec_version(present) == _spec_version(read):
            version = {"resourceVersion": present["metadata"]["resourceVersion"]}
            patch = {**change, "metadata": {**change.get("metadata", {}), **version}}
            try:
                self._send("PATCH", f"{where}?fieldManager=ftj", patch, MERGE)
            except NotFound as error:
                raise self._explained(error, name) from None
            except Conflict:
                # The operator writes the status at any time.
                present = self.job(name)
            else:
                return
        raise Conflict(
            f"the spec of {KIND} {name} was changed while this command ran, so nothing else was "
            "changed: run the command again"
        )

    def lines(self, path: str, **query: Any) -> Iterator[str]:
        """Yield the lines of a text, such as a log, as they arrive. Raises CommandFailed.

        A log that is followed may be silent for any time.
        """
        seconds = None if query.get("follow") else READ_SECONDS
        answer = self._opened("GET", _with(path, query), read_seconds=seconds)
        try:
            yield from _lines(answer.stream(1 << 14))
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from None
        finally:
            # A response that was not read to its end would otherwise keep its socket.
            answer.close()
            answer.release_conn()

    def _explained(self, error: NotFound, name: str) -> NotFound:
        if "could not find the requested resource" in str(error):
            return NotFound(NO_API)
        return NotFound(
            f"{KIND} {name} does not exist in namespace {self.namespace}{self._of_context}: "
            "correct the name, or set -n (kubectl get ftj -A lists all jobs)"
        )

    @property
    def _of_context(self) -> str:
        return "" if self.shared else f" of context {self.context}"

    @property
    def _or_another(self) -> str:
        return "" if self.shared else ", or set --context"

    def _send(
        self, method: str, path: str, body: Any = None, content: str = "", accept: str = ANY
    ) -> bytes:
        """Return the body of the response. Raises CommandFailed."""
        answer = self._opened(method, path, body, content, accept=accept)
        try:
            text: bytes = answer.read()
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from None
        return text

    def _opened(
        self,
        method: str,
        path: str,
        body: Any = None,
        content: str = "",
        read_seconds: float | None = READ_SECONDS,
        accept: str = ANY,
    ) -> Any:
        """Return the response of the server, whose body is not read yet. Raises CommandFailed."""
        server = self.api.configuration.host
        headers = {"Accept": accept, "Content-Type": content or JSON}
        settings: list[str] = ["BearerToken"]
        self.api.update_params_for_auth(headers, [], settings, path, method, body)
        try:
            answer = self.api.rest_client.request(
                method,
                server + path,
                headers={**self.api.default_headers, **headers},
                body=body,
                _request_timeout=(CONNECT_SECONDS, read_seconds),
            ).response
            if answer.status >= 400:
                text = answer.read()
        except (urllib3.exceptions.HTTPError, ApiException, OSError) as error:
            raise self._unreachable(error) from None
        if answer.status >= 400:
            raise self._refusal(answer.status, text)
        return answer

    def _unreachable(self, error: Exception) -> Unreachable:
        return Unreachable(
            f"the API server {self.api.configuration.host}{self._of_context} does not answer "
            f"({_short(error)}): check the network{self._or_another}"
        )

    def _refusal(self, status: int, text: bytes) -> CommandFailed:
        message = printable(str(_decoded(text).get("message") or text.decode(errors="replace")))
        if status == 401:
            return Unauthenticated(
                f"the API server rejects the credentials{self._of_context}: log in again"
                f"{self._or_another}"
            )
        if status == 403:
            return Forbidden(f"{message}: ask an administrator of the cluster for this right")
        if status == 404:
            return NotFound(message)
        if status == 409:
            return Conflict(message)
        if status == 410:
            return Expired(f"the API server answers {status}: {message}")
        return CommandFailed(f"the API server answers {status}: {message}")


def _lines(parts: Iterable[bytes]) -> Iterator[str]:
    r"""Yield lines that end with \n, \r or both. A very long one is cut, for memory and time."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    newlines = io.IncrementalNewlineDecoder(decoder, translate=True)
    rest = ""
    for part in parts:
        *complete, rest = (rest + newlines.decode(part)).split("\n")
        yield from complete
        if len(rest) >= LONGEST_LINE:
            yield rest
            rest = ""
    rest += newlines.decode(b"", final=True)
    if rest:
        yield rest.removesuffix("\n")


def _spec_version(job: Mapping[str, Any]) -> tuple[Any, Any]:
    return job["metadata"]["uid"], job["metadata"]["generation"]


def _with(path: str, query: Mapping[str, Any]) -> str:
    given = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _decoded(text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError:
        return {"message": text.decode(errors="replace")}
    return document if isinstance(document, dict) else {}


def _short(error: Exception) -> str:
    """Return the cause of an error of a connection, without the objects that urllib3 names."""
    cause = error.args[-1] if error.args else error
    text = printable(str(cause)).rpartition(">: ")[2] or type(error).__name__
    return text.removeprefix("Failed to establish a new connection: ").rstrip(".)")
