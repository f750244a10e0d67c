"""The defaults of a profile over those of the chart, and the credentials of the chart in them."""

from typing import Any

import pytest
from tests.support.leaves import ALPACA

from finetune_api.default_credentials import ACCOUNT
from finetune_api.defaulting import InvalidSpec, effective_defaults, resolve
from finetune_api.layering import value_at
from finetune_api.profile_defaults import over_chart

Values = dict[str, Any]
TOKEN: Values = {"tokenSecretRef": {"name": "platform"}}
OWN_TOKEN: Values = {"tokenSecretRef": {"name": "of-the-profile"}}
AUTHORITY: Values = {"caConfigMapRef": {"name": "platform"}}
IDENTITY: Values = {"access": {"serviceAccountName": "platform"}}
KEYS: Values = {"secretRef": {"name": "platform"}}
ENDPOINT = "https://minio.storage.svc:9000"
OTHER = "https://other.example"
ACME: Values = {"source": "hf://acme/base"}


@pytest.mark.parametrize(
    ("chart", "profile", "expected"),
    [
        ({"training": {"seed": 1}}, {"training": {"epochs": 2}}, {"seed": 1, "epochs": 2}),
        ({"training": {"maxSteps": 9}}, {"training": {"epochs": 2}}, {"epochs": 2}),
        (
            {"training": {"epochs": 2}},
            {"training": {"maxSteps": 9}},
            {"epochs": None, "maxSteps": 9},
        ),
        ({"training": {"seed": 1}}, {"training": {"seed": 2}}, {"seed": 2}),
    ],
    ids=["other fields", "epochs", "steps", "same field"],
)
def test_values_of_the_profile_come_first(chart: Values, profile: Values, expected: Values) -> None:
    merged = over_chart(profile, chart)
    assert merged["training"] == expected
    effective_defaults(merged)


def test_a_queue_of_the_profile_replaces_the_node_selector_of_the_chart() -> None:
    chart = {"placement": {"nodeSelector": {"pool": "tuning"}}}
    assert over_chart({"queueName": "team"}, chart)["placement"] == {}
    selected = {"queueName": "team", "placement": {"nodeSelector": {"pool": "b"}}}
    assert over_chart(selected, chart) == selected


def test_fields_of_the_content_of_another_source_do_not_apply() -> None:
    chart = {"model": {**ACME, "revision": "a" * 40}}
    assert over_chart({"model": {"source": "hf://acme/large"}}, chart)["model"] == {
        "source": "hf://acme/large"
    }
    assert over_chart({"model": ACME}, chart)["model"]["revision"] == "a" * 40


@pytest.mark.parametrize(
    ("chart", "profile", "kept"),
    [
        ({"model": TOKEN}, {"training": {"seed": 1}}, {"model.tokenSecretRef"}),
        ({"model": {**ACME, **TOKEN}}, {"model": ACME}, {"model.tokenSecretRef"}),
        ({"model": {**ACME, **TOKEN}}, {"model": {"source": "hf://acme/large"}}, set()),
        ({"dataset": {"s3": KEYS}}, {"dataset": {"s3": {"endpoint": OTHER}}}, set()),
        (
            {"dataset": {"s3": {**KEYS, "endpoint": ENDPOINT}}},
            {"dataset": {"s3": {"endpoint": ENDPOINT}}},
            {"dataset.s3.secretRef"},
        ),
        (
            {"dataset": {"s3": {**KEYS, "endpoint": ENDPOINT}}},
            {"dataset": {"s3": {"endpoint": OTHER}}},
            set(),
        ),
        ({"dataset": {"s3": KEYS}, "model": TOKEN}, {"model": AUTHORITY}, set()),
        ({"model": {**TOKEN, **AUTHORITY}}, {"model": AUTHORITY}, {"model.tokenSecretRef"}),
        (IDENTITY, {"training": {"seed": 1}}, {"access.serviceAccountName"}),
        (IDENTITY, {"dataset": {"s3": {"endpoint": OTHER}}}, set()),
        (IDENTITY, {"publish": [{"name": "a", "s3": {"uri": "s3://other/a"}}]}, set()),
        (IDENTITY, {**IDENTITY, "model": ACME}, {"access.serviceAccountName"}),
    ],
    ids=str,
)
def test_a_credential_of_the_chart_is_used_only_where_the_chart_configured_it(
    chart: Values, profile: Values, kept: set[str]
) -> None:
    paths = (("model", "tokenSecretRef"), ("dataset", "s3", "secretRef"), ACCOUNT)
    merged = over_chart(profile, chart)
    assert {".".join(path) for path in paths if value_at(merged, path) is not None} == kept


def test_a_group_without_its_credential_is_removed() -> None:
    """An empty group would be a value of its own, which only oci:// sources may have."""
    chart = {"model": {"oci": {"secretRef": {"name": "platform"}}, "source": "oci://a.example/b"}}
    merged = over_chart({"model": {"source": "hf://acme/base"}}, chart)
    assert merged["model"] == {"source": "hf://acme/base"}


def test_a_credential_of_the_profile_is_used_only_where_the_profile_configured_it() -> None:
    merged = over_chart({"model": {**ACME, **OWN_TOKEN}}, {"model": TOKEN})
    defaults = effective_defaults(merged)
    of_profile = resolve({**ALPACA, "model": ACME}, defaults).spec.model
    assert of_profile.token_secret_ref is not None
    assert of_profile.token_secret_ref.name == "of-the-profile"
    other = resolve({**ALPACA, "model": {"source": "hf://attacker/x"}}, defaults).spec.model
    assert other.token_secret_ref is None


def test_defaults_cannot_name_a_profile() -> None:
    with pytest.raises(InvalidSpec, match=r"defaults\.profile: defaults cannot name a profile"):
        effective_defaults({"profile": "small"})
