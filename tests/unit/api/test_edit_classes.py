"""What an edit of each field does: it is what the field's own description promises."""

import pytest
from tests.unit.api.leaves import (
    ALPACA,
    LEAVES,
    Leaf,
    Spec,
    change_of,
    merged,
)

from finetune_api.defaulting import Resolved, builtin_defaults, resolve
from finetune_api.markers import Edit

EFFECTS = {
    Edit.RETRAIN: {"revision", "build"},
    Edit.REMERGE: {"build"},
    Edit.RETRY: {"retry_key", "serve_key"},
    Edit.ROLL: {"serve_key"},
    Edit.NOTHING: set(),
}


def _resolved(spec: Spec) -> Resolved:
    return resolve(merged(ALPACA, spec), builtin_defaults())


@pytest.mark.parametrize("leaf", LEAVES, ids=str)
def test_an_edit_changes_what_its_class_says(leaf: Leaf) -> None:
    change = change_of(leaf)
    before, after = _resolved(change.before), _resolved(change.after)
    assert before.spec != after.spec
    changed = {
        name
        for name in ("revision", "build", "retry_key", "serve_key")
        if getattr(before, name) != getattr(after, name)
    }
    assert changed == EFFECTS[leaf.edit]


def test_the_walk_finds_the_spec() -> None:
    """The table above would pass over a walk that finds nothing."""
    found = {str(leaf) for leaf in LEAVES}
    assert len(found) == len(LEAVES) > 80
    assert {"model.source", "training.lora.r", "resources.serve.limits", "suspend"} <= found
    assert {leaf.edit for leaf in LEAVES} == set(Edit)


@pytest.mark.parametrize(
    ("edit", "paths"),
    [
        (
            Edit.NOTHING,
            {
                "training.advanced.evalSteps",
                "training.advanced.saveSteps",
                "training.advanced.loggingSteps",
                "merge.enabled",
                "serving.enabled",
                "evaluation.onRegression",
                "serving.rollout",
                "serving.replicas",
                "serving.allowedNamespaces",
                "suspend",
                "storage.deletionPolicy",
                "revisionHistoryLimit",
            },
        ),
        (Edit.REMERGE, {"merge.dtype", "merge.base", "serving.mode"}),
        (
            Edit.ROLL,
            {
                "serving.maxModelLen",
                "serving.dtype",
                "serving.gpuMemoryUtilization",
                "serving.extraArgs",
                "serving.servedModelNames",
                "serving.apiKeySecretRef.name",
                "serving.apiKeySecretRef.key",
                "serving.placement.zones",
                "serving.placement.nodeSelector",
                *(
                    f"serving.placement.tolerations.{name}"
                    for name in ("key", "operator", "value", "effect", "tolerationSeconds")
                ),
                "resources.serve.requests",
                "resources.serve.limits",
                "podMetadata.labels",
            },
        ),
    ],
)
def test_classes_are_as_decided(edit: Edit, paths: set[str]) -> None:
    """A field put into another class by mistake would train, or fail to train, a whole fleet."""
    assert {str(leaf) for leaf in LEAVES if leaf.edit is edit} == paths


def test_everything_about_the_weights_retrains() -> None:
    how = ("tokenSecretRef", "caConfigMapRef", "s3.region", "s3.secretRef")
    sources = ("model", "dataset", "evaluation.dataset")
    retry = {f"{group}.{name}" for group in sources for name in how}
    cadence = {f"training.advanced.{name}Steps" for name in ("eval", "save", "logging")}
    for leaf in LEAVES:
        path = str(leaf)
        weights = (*(f"{group}." for group in sources), "training.")
        if path.startswith(weights) and path not in cadence:
            secret = any(path.startswith(prefix) for prefix in retry)
            assert leaf.edit is (Edit.RETRY if secret else Edit.RETRAIN), path
