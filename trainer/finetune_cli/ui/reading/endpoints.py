"""Shared endpoints, as far as the user may read them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.v1alpha1.endpoints.spec import ENDPOINT_KIND, ENDPOINT_PLURAL
from finetune_cli.cluster import api
from finetune_cli.cluster.api import Cluster, Forbidden, NotFound
from finetune_cli.ui.reading import rights

MOST = 500
Object = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class EndpointList:
    """Endpoints of all namespaces, or of one."""

    objects: Sequence[Object]
    only: str | None
    """Namespace of the list, if the user may not list all of them; otherwise None."""


def read(cluster: Cluster) -> EndpointList:
    """Return the endpoints. Raises CommandFailed, and Denied without the right."""
    try:
        return EndpointList(objects=_listed(cluster, None), only=None)
    except Forbidden:
        namespace = cluster.namespace
        return EndpointList(objects=_listed(cluster, namespace), only=namespace)


def find(cluster: Cluster, namespace: str, name: str) -> Object:
    """Return an endpoint. Raises CommandFailed, and Denied without the right."""
    with rights.needs("get", rights.own(ENDPOINT_PLURAL), namespace):
        try:
            return cluster.get(api.path(ENDPOINT_PLURAL, namespace, name, api=api.JOBS))
        except NotFound:
            raise NotFound(
                f"{ENDPOINT_KIND} {name} does not exist in namespace {namespace}."
            ) from None


def _listed(cluster: Cluster, namespace: str | None) -> Sequence[Object]:
    with rights.needs("list", rights.own(ENDPOINT_PLURAL), namespace):
        try:
            return cluster.items(api.path(ENDPOINT_PLURAL, namespace, api=api.JOBS), limit=MOST)
        except NotFound:
            raise NotFound(
                f"The cluster has no {rights.own(ENDPOINT_PLURAL)}: its operator is of an older "
                "version."
            ) from None
