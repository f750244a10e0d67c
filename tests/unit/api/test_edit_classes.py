"""Changing a field changes exactly the hashes that its edit class promises."""

import pytest
from tests.support.leaves import ALPACA, LEAVES, Leaf, Spec, change_of, merged

from finetune_api.defaulting import Resolved, builtin_defaults, resolve
from finetune_api.markers import Edit

EFFECTS = {
    Edit.RETRAIN: {"revision", "build"},
    Edit.REMERGE: {"build"},
    Edit.RETRY: {"retry_key", "serve_key"},
    Edit.ROLL: {"serve_key"},
    Edit.PUBLISH: set(),
    Edit.NEXT_REVISION: set(),
    # The values of the profile are in the defaults with which a spec is resolved.
    Edit.PROFILE: set(),
    Edit.NOTHING: set(),
}


def _resolved(spec: Spec) -> Resolved:
    return resolve(merged(ALPACA, spec), builtin_defaults())


@pytest.mark.parametrize("leaf", LEAVES, ids=str)
def test_change_affects_the_hashes_of_its_edit_class(leaf: Leaf) -> None:
    change = change_of(leaf)
    before, after = _resolved(change.before), _resolved(change.after)
    assert before.spec != after.spec
    changed = {
        name
        for name in ("revision", "build", "retry_key", "serve_key")
        if getattr(before, name) != getattr(after, name)
    }
    assert changed == EFFECTS[leaf.edit]


def test_leaves_cover_the_spec() -> None:
    """The parametrized test above would pass without any leaves."""
    found = {str(leaf) for leaf in LEAVES}
    assert len(found) == len(LEAVES) > 80
    assert {"model.source", "training.lora.r", "resources.serve.limits", "suspend"} <= found
    # Only a FineTuneEndpoint has fields that cannot be changed.
    assert {leaf.edit for leaf in LEAVES} == set(Edit) - {Edit.FIXED}


@pytest.mark.parametrize(
    ("edit", "paths"),
    [
        (
            Edit.NEXT_REVISION,
            {
                "training.advanced.evalSteps",
                "training.advanced.saveSteps",
                "training.advanced.loggingSteps",
            },
        ),
        (
            Edit.NOTHING,
            {
                "merge.enabled",
                "serving.enabled",
                "evaluation.onRegression",
                "evaluation.onServingRegression",
                "serving.rollout",
                "serving.releaseAfterSeconds",
                "serving.replicas",
                "serving.idle.afterSeconds",
                "serving.idle.action",
                "serving.allowedNamespaces",
                "suspend",
                "storage.deletionPolicy",
                "revisionHistoryLimit",
            },
        ),
        (Edit.PROFILE, {"profile"}),
        (Edit.REMERGE, {"merge.dtype", "merge.base", "serving.mode", "serving.endpointRef.name"}),
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
    ids=["NEXT_REVISION", "NOTHING", "PROFILE", "REMERGE", "ROLL"],
)
def test_fields_of_edit_class(edit: Edit, paths: set[str]) -> None:
    """A field in the wrong class would retrain a whole fleet, or fail to retrain it."""
    assert {str(leaf) for leaf in LEAVES if leaf.edit is edit} == paths


def test_fields_that_determine_the_weights_retrain() -> None:
    sources = ("model", "training.startFrom", "dataset", "evaluation.dataset")
    access = tuple(
        f"{source}.{name}"
        for source in sources
        for name in (
            "tokenSecretRef",
            "caConfigMapRef",
            "s3.region",
            "s3.secretRef",
            "oci.secretRef",
        )
    )
    cadence = {f"training.advanced.{name}Steps" for name in ("eval", "save", "logging")}
    weights = (*(f"{source}." for source in sources), "training.")
    for leaf in LEAVES:
        path = str(leaf)
        if path.startswith(weights) and path not in cadence:
            expected = Edit.RETRY if path.startswith(access) else Edit.RETRAIN
            assert leaf.edit is expected, path
