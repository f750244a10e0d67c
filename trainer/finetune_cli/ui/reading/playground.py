"""What can be asked: a served model, through the user's own port-forward to a pod.

An API key is in the request of one question alone. It is neither kept nor logged.
"""

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api import KIND
from finetune_api.v1alpha1.endpoints.spec import ENDPOINT_KIND
from finetune_cli.cluster import chat_api, served
from finetune_cli.cluster.api import Cluster
from finetune_cli.cluster.chat_api import Interruption
from finetune_cli.errors import CommandFailed, WrongCall
from finetune_cli.ui.reading import endpoints, job, rights

ROLES = ("system", "user", "assistant")
MOST_TOKENS = 32_768
Texts = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A job or an endpoint, and the models that it serves."""

    kind: str
    namespace: str
    name: str
    models: Sequence[str]
    needs_key: bool


def of_job(cluster: Cluster, place: Texts) -> Target:
    """Return the served models of a job; empty if none is served. Raises CommandFailed."""
    named_job = job.find(cluster, place["namespace"], place["name"])
    present = served.place(cluster, named_job)
    models = list(present.names)
    mode = (named_job.spec.get("serving") or {}).get("mode")
    if models and (present.endpoint is not None or mode == "adapter"):
        models.append(present.base)
    return Target(
        kind=KIND,
        namespace=named_job.namespace,
        name=named_job.name,
        models=models,
        needs_key=present.needs_key,
    )


def of_endpoint(cluster: Cluster, place: Texts) -> Target:
    """Return the names that an endpoint answers for. Raises CommandFailed."""
    endpoint = endpoints.find(cluster, place["namespace"], place["name"])
    models = (endpoint.get("status") or {}).get("models") or ()
    return Target(
        kind=ENDPOINT_KIND,
        namespace=place["namespace"],
        name=place["name"],
        models=[str(model.get("name")) for model in models if model.get("answers")],
        needs_key=served.endpoint_needs_key(endpoint),
    )


def ask_job(
    cluster: Cluster, place: Texts, form: Texts, interruption: Interruption
) -> Generator[str, None, None]:
    """Yield the parts of the answer of a job's model. Raises CommandFailed."""
    named_job = job.find(cluster, place["namespace"], place["name"])
    present = served.place(cluster, named_job)
    pod = served.answering(present, named_job)
    try:
        yield from _asked(cluster, pod, form, interruption)
    except CommandFailed as error:
        if form.get("model") != present.base:
            raise
        raise CommandFailed(f"{str(error).removesuffix('.')}{served.NO_BASE}.") from None


def ask_endpoint(
    cluster: Cluster, place: Texts, form: Texts, interruption: Interruption
) -> Generator[str, None, None]:
    """Yield the parts of the answer of a model of an endpoint. Raises CommandFailed."""
    endpoint = endpoints.find(cluster, place["namespace"], place["name"])
    yield from _asked(
        cluster,
        served.pod_of_endpoint(
            cluster, endpoint["metadata"]["namespace"], endpoint["metadata"]["name"]
        ),
        form,
        interruption,
    )


def _asked(
    cluster: Cluster, pod: Mapping[str, Any], form: Texts, interruption: Interruption
) -> Generator[str, None, None]:
    request = _request(form)
    namespace = str(pod["metadata"]["namespace"])
    try:
        with rights.needs("create", "pods/portforward", namespace):
            key = form.get("key") or None
            yield from chat_api.answer(cluster, pod, request, key, interruption)
    except chat_api.WrongKey:
        raise CommandFailed(
            "The endpoint rejects the API key: type the key of the endpoint."
        ) from None


def _request(form: Texts) -> dict[str, Any]:
    """Return the request of a form. Raises WrongCall, which names the field."""
    request: dict[str, Any] = {"model": form.get("model", ""), "messages": _messages(form)}
    if text := form.get("tokens", "").strip():
        request["max_tokens"] = int(_number("the number of tokens", text, 1, MOST_TOKENS))
    if text := form.get("temperature", "").strip():
        request["temperature"] = _number("the temperature", text, 0, 2)
    return request


def _messages(form: Texts) -> list[dict[str, str]]:
    try:
        messages = json.loads(form.get("messages", ""))
        texts = [{"role": message["role"], "content": message["content"]} for message in messages]
    except (ValueError, KeyError, TypeError):
        raise WrongCall("The messages are not a list of roles and texts.") from None
    if not texts or any(
        message["role"] not in ROLES or not isinstance(message["content"], str) for message in texts
    ):
        raise WrongCall("The messages are not a list of roles and texts.")
    return texts


def _number(name: str, text: str, low: float, high: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not low <= number <= high:
        raise WrongCall(f"Set {name} to a number from {low:g} to {high:g}.")
    return number
