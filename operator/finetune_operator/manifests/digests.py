"""Arguments of a stage with the digests of the folders that earlier stages published."""

from finetune_api.v1alpha1.ledger import Artifacts
from finetune_operator.objects.naming import Stage


def arguments(stage: Stage, artifacts: Artifacts) -> list[str]:
    """Return the arguments; the stage rejects folders with other manifests.

    artifacts: of the revision, from the ledger. A digest that it does not have is passed as an
    empty text, which no manifest has.
    """
    base = {"--base-manifest": artifacts.base_manifest}
    required = {
        "prepare": {},
        "train": base | {"--dataset-manifest": artifacts.dataset_manifest},
        "merge": base | {"--adapter-manifest": artifacts.adapter_manifest},
    }
    return [word for name, each in required[stage].items() for word in (name, each or "")]
