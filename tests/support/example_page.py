"""The pages of ``ftj ui`` on the cluster of the examples."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from kubernetes import client as kubernetes_client

from clidocs import (
    example_cluster,
    example_endpoints,
    example_jobs,
    example_objects,
    example_schema,
)
from finetune_cli.cluster import job
from finetune_cli.cluster.api import Cluster
from finetune_cli.ui.access.one_user import OneUser
from finetune_cli.ui.access.sessions import Session
from finetune_cli.ui.app import Application
from finetune_cli.ui.pages import messages

Objects = dict[str, list[dict[str, Any]]]
PREFIX = "/a-random-path"
ALL_JOBS = "/apis/finetune.dev/v1alpha1/finetunejobs"


@pytest.fixture
def objects() -> Objects:
    """Return the objects of the cluster; a change before its start takes effect."""
    collections = copy.deepcopy(
        {
            **example_objects.COLLECTIONS,
            **example_endpoints.COLLECTIONS,
            **example_schema.COLLECTIONS,
        }
    )
    collections[ALL_JOBS] = collections[example_objects.JOBS]
    return collections


@contextmanager
def cluster_of(objects: Objects) -> Iterator[Cluster]:
    """Run an API server with these objects, at the fixed time of the examples."""
    frozen = mock.patch.object(job, "now", return_value=example_jobs.NOW)
    with frozen, example_cluster.serving(objects) as url:
        settings = kubernetes_client.Configuration()
        settings.host, settings.retries = url, False
        yield Cluster(
            api=kubernetes_client.ApiClient(settings),
            namespace=example_jobs.NAMESPACE,
            context="demo",
        )


def application(cluster: Cluster, origins: Sequence[str]) -> Application:
    """Return the pages for the user of a cluster."""
    return Application(access=OneUser(cluster), login=messages.CODE, origins=origins, prefix=PREFIX)


def user_of(pages: Application) -> OneUser:
    """Return the access of such pages."""
    assert isinstance(pages.access, OneUser)
    return pages.access


def session_of(pages: Application) -> Session:
    """Return the only session of such pages."""
    (session,) = user_of(pages).sessions._sessions.values()
    return session
