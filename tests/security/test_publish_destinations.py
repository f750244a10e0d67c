"""A job publishes to a destination that the administrator has not allowed.

Publishing is a way to take models and data out of the cluster, so an allow-list of its own names
every destination, and the connections of the publish pod are those to its targets.
"""

from typing import Any

import pytest
from pydantic import ValidationError
from tests.fakes.apiserver import CONFIG, SPEC

from finetune_api.policy.check import violations
from finetune_api.policy.limits import Limits, Names
from finetune_api.v1alpha1.spec import FineTuneJobSpec
from finetune_operator.config import Settings
from finetune_operator.connections import Egress
from finetune_operator.manifests import egress

pytestmark = pytest.mark.finding(18, "a registry is hostile")

ALLOWED = (
    r"oci://registry\.example\.com/models/.*",
    r"s3://acme-models/.*",
    r"https://minio\.acme\.test:9000/models/.*",
)
LIMITS = Limits(publish_destinations=Names(allow=ALLOWED, deny=(r".*/models/secret(/.*)?",)))


def oci(repository: str) -> dict[str, Any]:
    return {"oci": {"repository": repository}}


def s3(uri: str, endpoint: str | None = None) -> dict[str, Any]:
    return {"s3": {"uri": uri} | ({} if endpoint is None else {"endpoint": endpoint})}


def is_allowed(target: dict[str, Any], limits: Limits = LIMITS) -> bool:
    """Report whether a spec with a target is valid and within the limits."""
    entry = {"name": "a", "what": "adapter", **target}
    try:
        spec = FineTuneJobSpec.model_validate({**SPEC, "publish": [entry]}, by_name=False)
    except ValidationError:
        return False
    return not violations(spec, limits)


@pytest.mark.parametrize(
    "target",
    [
        oci("registry.example.com/models/a"),
        oci("registry.example.com/models/a/b"),
        s3("s3://acme-models/a"),
        s3("s3://models/a", "https://minio.acme.test:9000"),
    ],
    ids=str,
)
def test_an_allowed_destination(target: dict[str, Any]) -> None:
    assert is_allowed(target)
    assert not is_allowed(target, Limits()), "the default allows none"


@pytest.mark.parametrize(
    "target",
    [
        oci("registry.example.com.evil.test/models/a"),
        oci("evil.test/registry.example.com/models/a"),
        oci("registry.example.com:5000/models/a"),
        oci("registry-example.com/models/a"),
        oci("registryxexample.com/models/a"),
        oci("registry.example.com/model/a"),
        oci("registry.example.com/models"),
        oci("registry.example.com/models/secret"),
        oci("registry.example.com/models/secret/a"),
        oci("registry.example.com/models/../other/a"),
        oci("registry.example.com/models//a"),
        oci("registry.example.com/models/a:latest"),
        oci("registry.example.com/models/a@sha256:" + "0" * 64),
        oci("user@registry.example.com/models/a"),
        oci("REGISTRY.example.com/models/a"),
        oci("registry.example.com/models/a\n"),
        oci("registry.example.com/models/a?x=1"),
        oci("evil.test#registry.example.com/models/a"),
        s3("s3://acme-models-of-others/a"),
        s3("s3://others/acme-models/a"),
        s3("s3://acme-models/a", "https://evil.test"),
        s3("s3://acme-models/a", "https://minio.acme.test:9000"),
        s3("s3://models/a", "http://minio.acme.test:9000"),
        s3("s3://models/a", "https://minio.acme.test"),
        s3("s3://models/a", "https://minio.acme.test:9000/models"),
        s3("s3://models/secret", "https://minio.acme.test:9000"),
    ],
    ids=str,
)
def test_a_destination_that_looks_like_an_allowed_one(target: dict[str, Any]) -> None:
    assert not is_allowed(target)


@pytest.mark.parametrize(
    ("url", "namespaces", "outside"),
    [
        ("https://registry.example.com/models/a", set(), True),
        ("https://registry.storage.svc:5000", {"storage"}, False),
        ("https://registry.storage.svc.cluster.local", {"storage"}, False),
        ("https://registry.other.svc:5000", set(), False),
        ("https://storage.svc.example.com", set(), True),
    ],
)
def test_the_pod_reaches_nothing_besides_its_targets(
    url: str, namespaces: set[str], outside: bool
) -> None:
    """In particular, neither the hub nor the other namespaces that prepare pods may reach."""
    open_to = Egress.model_validate(
        {"namespaces": [{"name": name, "ports": [5000]} for name in ("storage", "data")]}
    )
    settings: Settings = CONFIG.model_copy(update={"egress": open_to})
    narrowed = egress.for_targets(settings, (url,))
    found = egress.destinations(narrowed, cloud_identity=False)
    assert {each.name for each in found.namespaces} == namespaces
    assert bool(found.blocks) is outside
