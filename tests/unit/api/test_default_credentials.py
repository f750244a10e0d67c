"""Credentials of the chart defaults: kept where the chart configured them, and classified."""

from typing import Any

import pytest
from tests.support.leaves import ALPACA, LEAVES, OCI, Leaf, merged

from finetune_api.default_credentials import ACCOUNT, CERTIFICATES, SECRETS, fields_of
from finetune_api.defaulting import Resolved, effective_defaults, resolve
from finetune_api.layering import Path, value_at
from finetune_api.markers import ApiModel, Edit, extra_of
from finetune_api.rules import matches
from finetune_api.v1alpha1 import references
from finetune_api.v1alpha1.publishing.targets import PublishTarget
from finetune_api.v1alpha1.publishing.tracking import Tracking
from finetune_api.v1alpha1.spec import FineTuneJobSpec

TOKEN: dict[str, Any] = {"tokenSecretRef": {"name": "platform"}}
AUTHORITY: dict[str, Any] = {"caConfigMapRef": {"name": "platform"}}
LOGIN: dict[str, Any] = {"oci": {"secretRef": {"name": "platform"}}}
IDENTITY: dict[str, Any] = {"access": {"serviceAccountName": "platform"}}
ENDPOINT = "https://minio.storage.svc:9000"
WEB: dict[str, Any] = {"source": "https://models.example/a/SHA256SUMS", "sha256": "0" * 64}


def resolved(spec: dict[str, Any], defaults: dict[str, Any]) -> Resolved:
    return resolve(merged(ALPACA, spec), effective_defaults(defaults))


def used(spec: dict[str, Any], defaults: dict[str, Any]) -> set[str]:
    """Return the paths of all references in the completed spec."""
    values = resolved(spec, defaults).spec.model_dump(mode="json", by_alias=True)
    groups = {"model": values["model"], "evaluation.dataset": values["evaluation"].get("dataset")}
    groups |= {"dataset": values.get("dataset")}
    groups |= {f"datasets[{each['name']}]": each for each in values.get("datasets") or ()}
    found = {
        ".".join((name, *path))
        for name, group in groups.items()
        for path in SECRETS | CERTIFICATES
        if value_at(group or {}, path) is not None
    }
    return found | ({".".join(ACCOUNT)} if value_at(values, ACCOUNT) is not None else set())


def s3(source: str = "s3://bucket/a", **access: Any) -> dict[str, Any]:
    return {"source": source, "s3": access} if access else {"source": source}


KEYS: dict[str, Any] = {"secretRef": {"name": "platform"}}


@pytest.mark.parametrize(
    ("spec", "defaults", "expected"),
    [
        ({}, {"model": {**TOKEN, **AUTHORITY}}, {"model.tokenSecretRef", "model.caConfigMapRef"}),
        ({"model": {"source": "hf://any/other"}}, {"model": TOKEN}, {"model.tokenSecretRef"}),
        ({"model": WEB}, {"model": {**WEB, **TOKEN}}, {"model.tokenSecretRef"}),
        (
            {"model": {"source": "hf://org/own"}},
            {"model": {"source": "hf://org/own", **TOKEN}},
            {"model.tokenSecretRef"},
        ),
        ({"model": s3()}, {"model": {"s3": KEYS}}, {"model.s3.secretRef"}),
        (
            {"model": s3()},
            {"model": {"s3": {**KEYS, "endpoint": ENDPOINT}}},
            {"model.s3.secretRef"},
        ),
        (
            {"model": s3(endpoint=ENDPOINT)},
            {"model": {"s3": {**KEYS, "endpoint": ENDPOINT}, **AUTHORITY}},
            {"model.s3.secretRef", "model.caConfigMapRef"},
        ),
        (
            {"model": {"caConfigMapRef": {"name": "platform", "key": "ca.crt"}}},
            {"model": {**TOKEN, "caConfigMapRef": {"name": "platform", "key": "ca.crt"}}},
            {"model.tokenSecretRef", "model.caConfigMapRef"},
        ),
        (
            {"dataset": {"source": WEB["source"], "sha256": WEB["sha256"], **AUTHORITY}},
            {"model": TOKEN},
            {"model.tokenSecretRef", "dataset.caConfigMapRef"},
        ),
        (
            {"evaluation": {}},
            {"evaluation": {"dataset": {**WEB, **TOKEN, "format": "alpaca"}}},
            {"evaluation.dataset.tokenSecretRef"},
        ),
        (
            {
                "dataset": None,
                "datasets": [
                    {**ALPACA["dataset"], "name": "b"},
                    {**ALPACA["dataset"], **WEB, "name": "a"},
                ],
            },
            {"dataset": TOKEN},
            {"datasets[b].tokenSecretRef"},
        ),
        ({"model": s3()}, IDENTITY, {"access.serviceAccountName"}),
        (
            {"model": s3(), "dataset": s3(endpoint=ENDPOINT, secretRef={"name": "own"})},
            IDENTITY,
            {"access.serviceAccountName", "dataset.s3.secretRef"},
        ),
        ({"model": s3()}, {**IDENTITY, "model": s3()}, {"access.serviceAccountName"}),
        ({}, IDENTITY, {"access.serviceAccountName"}),
        (
            {"model": {**WEB, **TOKEN, **AUTHORITY}, **IDENTITY},
            {"model": {"tokenSecretRef": {"name": "other"}}},
            {"model.tokenSecretRef", "model.caConfigMapRef", "access.serviceAccountName"},
        ),
        ({"model": {"source": OCI}}, {"model": LOGIN}, set()),
        ({"model": {"source": OCI}}, {"model": {"source": OCI, **LOGIN}}, {"model.oci.secretRef"}),
        ({"model": {"source": f"{OCI}-2"}}, {"model": {"source": OCI, **LOGIN}}, set()),
        (
            {"model": {"source": OCI, **AUTHORITY}},
            {"model": {"source": OCI, **LOGIN}},
            {"model.caConfigMapRef"},
        ),
        ({"model": {"source": OCI, **LOGIN}}, {}, {"model.oci.secretRef"}),
    ],
    ids=[
        "hub",
        "any repository",
        "its own server",
        "its own repository",
        "Amazon",
        "endpoint of the chart",
        "endpoint that both wrote",
        "certificates that both wrote",
        "certificates of another server",
        "evaluation dataset of the chart",
        "one of two datasets",
        "identity for Amazon",
        "identity next to keys of the author",
        "identity for its own bucket",
        "identity without a bucket",
        "references of the author",
        "any registry",
        "its own image",
        "another tag",
        "certificates of another registry",
        "login of the author",
    ],
)
def test_credentials_are_used_where_the_chart_configured_them(
    spec: dict[str, Any], defaults: dict[str, Any], expected: set[str]
) -> None:
    assert used(spec, defaults) == expected


@pytest.mark.parametrize("source", ["hf://org/model", "s3://bucket/model", WEB["source"]])
def test_credentials_of_the_chart_change_no_hash_of_work(source: str) -> None:
    """A revision that an earlier version started with them stays the same revision."""
    digest = {"sha256": WEB["sha256"]} if source == WEB["source"] else {}
    spec = {"model": {"source": source, **digest}}
    credentials = {**IDENTITY, "model": {**TOKEN, **AUTHORITY, "s3": KEYS}}
    with_them, without = resolved(spec, credentials), resolved(spec, {})
    assert (with_them.digest, with_them.build_digest) == (without.digest, without.build_digest)


def test_withheld_credential_retries_once_the_author_writes_it() -> None:
    """The reference of the author may be the same as that of the chart."""
    withheld = resolved({"model": WEB}, {"model": TOKEN})
    written = resolved({"model": {**WEB, **TOKEN}}, {"model": TOKEN})
    assert (withheld.digest, withheld.retry_key) != (written.digest, written.retry_key)
    assert withheld.digest == written.digest


IN_THE_POD: dict[Path, str] = {
    ("serving", "apiKeySecretRef"): "vLLM compares it with the key of a caller",
}
"""References to Secrets that no pod sends to a server."""
IMAGE: Path = ("oci", "secretRef")
"""Only a model or an adapter can be an image."""
NAMES: dict[Path, str] = {
    ("storage", "baseCache", "claimName"): "a volume, which prepare mounts read-only",
    ("storage", "storageClassName"): "a class of volumes",
    ("serving", "endpointRef", "name"): "an endpoint, whose own credentials get its base",
    ("queueName",): "a queue of Kueue",
    ("profile",): "a profile, whose credentials follow the same rules",
    ("workloadPriorityClassName",): "a priority in a queue of Kueue",
    ("priorityClassName",): "a priority of pods",
    ("training", "startFrom", "job", "name"): "a job; none of its credentials is used",
}
"""Names of objects that hold neither a credential nor an identity."""
TYPES = [
    kind
    for kind in vars(references).values()
    if isinstance(kind, type) and issubclass(kind, ApiModel) and kind is not ApiModel
]


def _names_an_object(leaf: Leaf) -> bool:
    name = matches(references.NAME, "").cel
    return any(rule.cel == name for rule in extra_of(leaf.info).rules)


def test_every_reference_is_classified() -> None:
    """Without this, a new reference of the chart would reach the servers of every author."""
    images = [("model",), ("training", "startFrom")]
    groups = [*images, ("dataset",), ("datasets",), ("evaluation", "dataset")]
    next_to_sources = {
        (*group, *path)
        for group in groups
        for path in SECRETS | CERTIFICATES
        if path != IMAGE or group in images
    }
    found = set(fields_of(FineTuneJobSpec, *TYPES))
    in_targets = {path for path in found if path[0] in ("publish", "tracking")}
    assert PublishTarget.atomic, "a target of the chart belongs to the chart as a whole"
    assert Tracking.atomic
    assert found == next_to_sources | IN_THE_POD.keys() | in_targets
    named = {leaf.path for leaf in LEAVES if _names_an_object(leaf)}
    named -= {(*path, "name") for path in found}
    assert named == NAMES.keys() | {ACCOUNT}


def test_every_credential_can_change_without_training() -> None:
    edits = {leaf.path: leaf.edit for leaf in LEAVES}
    for path in SECRETS | CERTIFICATES:
        assert edits["model", *path, "name"] is Edit.RETRY
    assert edits[ACCOUNT] is Edit.RETRY


BUCKET: dict[str, Any] = {"uri": "s3://models/a", "endpoint": ENDPOINT}
REGISTRY: dict[str, Any] = {"repository": "registry.example.com/a"}


def target(**place: Any) -> dict[str, Any]:
    return {"publish": [{"name": "a", "what": "adapter", **place}]}


def test_no_default_completes_a_target_of_the_author() -> None:
    chart = target(oci={**REGISTRY, "secretRef": {"name": "platform"}}, tags=["latest"])
    other = target(oci={"repository": "registry.example.org/b"})
    (completed,) = resolved(other, chart).spec.publish or []
    assert completed.secret is None
    assert completed.tags is None
    (of_chart,) = resolved({}, chart).spec.publish or []
    assert of_chart.secret is not None


def test_no_default_completes_a_tracking_server_of_the_author() -> None:
    platform = {"uri": "https://mlflow.example.com", "secretRef": {"name": "platform"}}
    chart = {"tracking": {"mlflow": platform}}
    own = resolved({"tracking": {"mlflow": {"uri": "https://mlflow.example.org"}}}, chart).spec
    assert own.tracking is not None
    assert own.tracking.mlflow.secret_ref is None
    of_chart = resolved({}, chart).spec
    assert of_chart.tracking is not None
    assert of_chart.tracking.mlflow.secret_ref is not None


def test_default_tracking_fits_the_job() -> None:
    server = {"uri": "https://mlflow.example.com", "registeredModel": "support"}
    chart = {**target(oci=REGISTRY), "tracking": {"mlflow": server}}

    def tracked(**spec: Any) -> str:
        found = resolved(spec, chart).spec.tracking
        return "nothing" if found is None else str(found.mlflow.registered_model)

    assert tracked() == "support"
    assert tracked(publish=[]) == "None", "no model is published"
    named = {"name": "mlflow", "what": "adapter", "oci": REGISTRY}
    assert tracked(publish=[named]) == "nothing"


@pytest.mark.parametrize(
    ("spec", "kept"),
    [
        ({}, True),
        (target(s3=BUCKET), True),
        (target(oci=REGISTRY), True),
        (target(s3={**BUCKET, "secretRef": {"name": "own"}}), True),
        (target(s3={**BUCKET, "uri": "s3://others/a"}), False),
        (target(s3={**BUCKET, "endpoint": "https://hostile.example"}), False),
        (target(s3={**BUCKET, "caConfigMapRef": {"name": "own"}}), False),
        ({**target(s3={"uri": "s3://others/a"}), "access": {"serviceAccountName": "own"}}, True),
    ],
)
def test_account_of_the_chart_writes_to_the_targets_of_the_chart(
    spec: dict[str, Any], kept: bool
) -> None:
    account = resolved(spec, {**IDENTITY, **target(s3=BUCKET)}).spec.access.service_account_name
    assert (account is not None) is kept


def test_default_targets_fit_the_job() -> None:
    """A default never makes a spec invalid: it applies to jobs that can fulfill it."""
    chart = {
        "publish": [
            {"name": "a", "what": "adapter", "oci": REGISTRY},
            {"name": "b", "what": "merged", "oci": REGISTRY},
            {"name": "c", "what": "adapter", "when": "Merged", "oci": REGISTRY},
            {"name": "d", "what": "adapter", "when": "Verified", "oci": REGISTRY},
        ]
    }

    def names(**spec: Any) -> str:
        return "".join(each.name for each in resolved(spec, chart).spec.publish or ())

    assert names() == "abcd"
    assert names(serving={"enabled": False}) == "abc"
    assert names(serving={"mode": "adapter"}) == "ad"
    assert names(serving={"enabled": False}, merge={"enabled": False}) == "a"
    assert names(publish=[]) == ""
