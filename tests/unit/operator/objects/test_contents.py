"""Which objects have the content that the operator would write; statuses without empty values."""

from typing import Any

import pytest

from finetune_operator.objects.contents import same_content, surplus, without_empty

DESIRED: dict[str, Any] = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "j", "labels": {"team": "a"}},
    "spec": {
        "backoffLimit": 0,
        "template": {
            "metadata": {"labels": {"team": "a"}},
            "spec": {
                "serviceAccountName": "runner",
                "containers": [
                    {
                        "name": "trainer",
                        "args": ["train", "--steps=1"],
                        "stdin": False,
                        "resources": {"limits": {"memory": "1024Mi"}, "claims": "1Gi"},
                    }
                ],
                "volumes": [],
            },
        },
    },
}
POD = ("spec", "template", "spec")
CONTAINER = (*POD, "containers", 0)


def with_value(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """Return the desired object with another value at a path."""

    def put(each: Any, rest: tuple[Any, ...]) -> Any:
        if not rest:
            return value
        if isinstance(each, list):
            return [
                put(item, rest[1:]) if number == rest[0] else item
                for number, item in enumerate(each)
            ]
        return {**each, rest[0]: put(each.get(rest[0]), rest[1:])}

    found: dict[str, Any] = put(DESIRED, path)
    return found


def _at(path: tuple[Any, ...]) -> dict[str, Any]:
    found: Any = DESIRED
    for each in path:
        found = found[each]
    return dict(found)


ADDED: list[tuple[tuple[Any, ...], str, Any]] = [
    (("spec",), "completionMode", "NonIndexed"),
    (("spec",), "completions", 1),
    (("spec",), "manualSelector", False),
    (("spec",), "parallelism", 1),
    (("spec",), "suspend", True),
    (("spec",), "suspend", False),
    ((*CONTAINER, "env"), "apiVersion", "v1"),
    ((*CONTAINER, "configMap"), "defaultMode", 420),
    (POD, "dnsPolicy", "ClusterFirst"),
    (POD, "schedulerName", "default-scheduler"),
    ((*CONTAINER, "readinessProbe"), "failureThreshold", 3),
    ((*CONTAINER, "readinessProbe"), "periodSeconds", 10),
    ((*CONTAINER, "readinessProbe"), "scheme", "HTTP"),
    ((*CONTAINER, "readinessProbe"), "successThreshold", 1),
    ((*CONTAINER, "readinessProbe"), "timeoutSeconds", 1),
    ((*CONTAINER, "ports"), "protocol", "TCP"),
    (CONTAINER, "terminationMessagePath", "/dev/termination-log"),
    (("spec",), "volumeMode", "Filesystem"),
    (POD, "serviceAccount", "runner"),
]
"""Fields that the API server adds to Jobs, pods and volumes, with the defaults of Kubernetes."""


@pytest.mark.parametrize(("path", "name", "value"), ADDED)
def test_default_of_the_api_server_is_no_difference_and_another_value_is(
    path: tuple[Any, ...], name: str, value: Any
) -> None:
    group = {"kept": 1} if path[-1] not in ("spec", 0) else _at(path)
    desired = with_value(path, group)
    assert same_content(desired, desired)
    assert same_content(desired, with_value(path, {**group, name: value}))
    assert not same_content(desired, with_value(path, {**group, name: "other"}))


@pytest.mark.parametrize(
    ("path", "value", "same"),
    [
        ((*CONTAINER, "resources", "limits", "memory"), "1Gi", True),
        ((*CONTAINER, "resources", "limits", "memory"), "1025Mi", False),
        ((*CONTAINER, "resources", "claims"), "1024Mi", False),
        ((*CONTAINER, "resources", "requests"), {"memory": "1Gi"}, False),
        ((*CONTAINER, "args"), ["train"], False),
        ((*CONTAINER, "args"), ["train", "--steps=2"], False),
        ((*CONTAINER, "args"), ["train", "--steps=1", "--more"], False),
        ((*CONTAINER, "args"), None, False),
        ((*CONTAINER, "stdin"), 0, False),
        ((*CONTAINER, "stdin"), True, False),
        (("spec", "backoffLimit"), False, False),
        ((*POD, "volumes"), None, True),
        ((*POD, "volumes"), {}, True),
        ((*POD, "volumes"), [{"name": "x"}], False),
        ((*POD, "serviceAccountName"), "admin", False),
        ((*POD, "serviceAccount"), "admin", False),
        ((*POD, "hostNetwork"), True, False),
        ((*POD, "hostAliases"), [], True),
        ((*POD, "securityContext"), {}, True),
        ((*POD, "nodeSelector"), None, True),
        ((*POD, "nodeSelector"), {"a": "b"}, False),
        (("spec", "selector"), {"matchLabels": {"a": "b"}}, True),
        (("spec", "storageClassName"), "standard", True),
        (("spec", "volumeName"), "pv", True),
        ((*POD, "selector"), "x", False),
        (("selector",), "x", False),
        (("spec", "template", "metadata", "labels", "job-name"), "j", True),
        (("spec", "template", "metadata", "labels", "controller-uid"), "u", True),
        (("spec", "template", "metadata", "labels", "batch.kubernetes.io/job-name"), "j", True),
        (("spec", "template", "metadata", "labels", "app"), "x", False),
        (("spec", "template", "metadata", "labels", "team"), "b", False),
        (("spec", "template", "metadata", "annotations"), {"job-name": "j"}, False),
        (("metadata", "labels"), {"team": "a", "other": "x"}, True),
        (("metadata", "labels"), {"team": "b"}, False),
        (("metadata", "labels"), None, False),
        (("metadata", "annotations"), {"a": "b"}, True),
        (("status",), {"active": 1}, True),
        (("apiVersion",), "batch/v2", True),
        (("kind",), "Other", True),
        (("data",), {"a": "b"}, False),
    ],
    ids=str,
)
def test_content_is_compared_field_by_field(path: tuple[Any, ...], value: Any, same: bool) -> None:
    assert same_content(DESIRED, with_value(path, value)) is same


def test_an_object_without_labels_needs_none() -> None:
    desired = {"metadata": {}, "spec": {"a": 1}}
    assert same_content(desired, {"metadata": {"labels": {"b": "c"}}, "spec": {"a": 1}}) is True


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": None, "b": {}, "c": {"d": None}}, {}),
        ({"a": 0, "b": "", "c": False, "d": []}, {"a": 0, "b": "", "c": False, "d": []}),
        ({"a": [{"b": None, "c": 1}, None, {}]}, {"a": [{"c": 1}, None, {}]}),
        (({"a": {}},), [{}]),
        (None, None),
        ({}, {}),
    ],
    ids=str,
)
def test_a_status_is_compared_without_nulls_and_empty_groups(value: Any, expected: Any) -> None:
    assert without_empty(value) == expected


@pytest.mark.parametrize(
    ("path", "value", "patch"),
    [
        (("spec", "paused"), True, {"paused": None}),
        (("spec", "paused"), False, {}),
        (("spec", "backoffLimit"), 1, {"backoffLimit": 0}),
        (("spec", "template", "metadata", "labels", "app"), "x", {"app": None}),
        (
            ("spec", "template", "metadata", "labels", "batch.kubernetes.io/controller-uid"),
            "u",
            {"batch.kubernetes.io/controller-uid": None},
        ),
        (("spec", "template", "metadata", "annotations"), {"restartedAt": "now"}, {}),
        ((*POD, "hostNetwork"), True, {"hostNetwork": None}),
        ((*POD, "volumes"), [{"name": "x"}], {"volumes": []}),
        ((*POD, "schedulerName"), "default-scheduler", {}),
        ((*POD, "restartPolicy"), "Always", {}),
        (("spec", "clusterIP"), "10.0.0.1", {}),
        (("metadata", "labels"), {"other": "x"}, {}),
    ],
    ids=str,
)
def test_surplus_is_what_neither_operator_nor_api_server_wrote(
    path: tuple[Any, ...], value: Any, patch: dict[str, Any]
) -> None:
    expected: dict[str, Any] = patch
    for each in reversed(path[:-1] if patch else ()):
        expected = {each: expected}
    assert surplus(DESIRED, with_value(path, value)) == expected


def test_a_list_with_an_additional_element_is_replaced() -> None:
    """A merge patch cannot remove one element of a list."""
    containers = _list(CONTAINER[:-1])
    for others in ([*containers, {"name": "x"}], [{**containers[0], "tty": True}]):
        found = surplus(DESIRED, with_value(CONTAINER[:-1], others))
        assert found["spec"]["template"]["spec"] == {"containers": containers}


def _list(path: tuple[Any, ...]) -> list[Any]:
    found: Any = DESIRED
    for each in path:
        found = found[each]
    return list(found)
