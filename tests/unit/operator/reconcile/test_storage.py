"""The claim: created once, grown where the spec asks for more, otherwise left alone."""

import pytest
from tests.fakes.apiserver import CONFIG, SPEC, Cluster, Thing, merge

from finetune_operator.actions import Apply, Create
from finetune_operator.manifests import volume
from finetune_operator.reconcile import storage
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import resolve_target


def ensured(size: str, present: str | None, storage_class: str | None = None) -> list[str]:
    """Return what is done about a volume of a size where another of a size is present."""
    cluster = Cluster(spec={**SPEC, "storage": {"size": size, "storageClassName": storage_class}})
    job = cluster.present_job()
    target = resolve_target(job, Ledger(), CONFIG)
    claim: Thing | None = None
    if present is not None:
        claim = volume.render(job, target)
        merge(claim, {"spec": {"resources": {"requests": {"storage": present}}}})
    actions = storage.ensure(job, target, claim)
    for action in actions:
        if isinstance(action, Apply):
            assert "storageClassName" not in action.object["spec"]
        if isinstance(action, Create):
            assert action.object["spec"].get("storageClassName") == storage_class
    return [type(action).__name__ for action in actions]


@pytest.mark.parametrize("storage_class", [None, "fast"])
@pytest.mark.parametrize(
    ("size", "present", "expected"),
    [
        ("60Gi", None, ["Create"]),
        ("60Gi", "60Gi", []),
        ("61440Mi", "60Gi", []),
        ("64424509440", "60Gi", []),
        ("64", "64.0", []),
        ("60Gi", "100Gi", []),
        ("60G", "60Gi", []),
        ("61Gi", "60Gi", ["Apply"]),
        ("60Gi", "60G", ["Apply"]),
        ("1Ti", "999Gi", ["Apply"]),
        ("0.5Ti", "511Gi", ["Apply"]),
        ("60Gi", "1e9", []),
    ],
)
def test_a_volume_only_grows(
    size: str, present: str | None, expected: list[str], storage_class: str | None
) -> None:
    assert ensured(size, present, storage_class) == expected


def misfit(size: str, present: str, *, phase: str = "Pending", **asked: str) -> bool:
    """Report whether a pending volume of a size, of class ``fast``, can never bind."""
    cluster = Cluster(spec={**SPEC, "storage": {"size": size, **asked}})
    job = cluster.present_job()
    target = resolve_target(job, Ledger(), CONFIG)
    claim = volume.render(job, target)
    merge(claim, {"spec": {"resources": {"requests": {"storage": present}}}})
    merge(claim, {"spec": {"storageClassName": "fast"}, "status": {"phase": phase}})
    found = storage.misfit(job, target, claim)
    assert found in (None, claim)
    return found is not None


@pytest.mark.parametrize(
    ("size", "present", "expected"),
    [
        ("60Gi", "60Gi", False),
        ("61440Mi", "60Gi", False),
        ("60Gi", "61Gi", True),
        ("60Gi", "59Gi", True),
        ("60Gi", "1e9", True),
    ],
)
def test_a_pending_volume_of_another_size_is_replaced(
    size: str, present: str, expected: bool
) -> None:
    assert misfit(size, present) is expected
    assert not misfit(size, present, phase="Bound")


def test_a_pending_volume_of_another_class_is_replaced() -> None:
    assert misfit("60Gi", "60Gi", storageClassName="slow")
    assert not misfit("60Gi", "60Gi", storageClassName="fast")
    assert not misfit("60Gi", "60Gi")
