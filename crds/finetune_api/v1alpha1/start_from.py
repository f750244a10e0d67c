"""``spec.training.startFrom`` of a FineTuneJob: an adapter to continue from."""

from typing import ClassVar

from finetune_api.markers import ApiModel, Edit, field
from finetune_api.rules import Rule, matches
from finetune_api.v1alpha1 import sources
from finetune_api.v1alpha1.references import ConfigMapKeyRef, SecretKeyRef
from finetune_api.v1alpha1.sources import OCI, S3, SCHEMES_OF_FIELD, SCHEMES_OF_MODEL_FIELD

START_FROM = "training.startFrom"
"""Path in the spec, and the kind of its source."""
_SCHEMES_OF_FIELD = {
    **{name: each for name, each in SCHEMES_OF_FIELD.items() if name != "sha256"},
    "tokenSecretRef": ("hf",),
    "caConfigMapRef": ("hf", "s3", "oci"),
    "oci": SCHEMES_OF_MODEL_FIELD["oci"],
}


class StartFrom(ApiModel):
    """A LoRA adapter of the same base model, in the format of PEFT."""

    source: str = field(
        "Location of the adapter. oci://registry/repository:tag: image with a folder /models, as "
        "spec.publish stores it. s3://bucket/prefix: objects in a bucket. hf://org/name: "
        "repository on the Hugging Face Hub. pvc://claim/path: folder of a PersistentVolumeClaim "
        "in the job's namespace.",
        edit=Edit.RETRAIN,
        max_length=512,
        rules=(
            matches(
                f"{sources.OCI_SOURCE}|{sources.S3_SOURCE}|{sources.HF_SOURCE}"
                f"|{sources.CLAIM_SOURCE}",
                "write startFrom.source as oci://registry/repository:tag, "
                "oci://registry/repository@sha256:digest, s3://bucket/prefix, hf://org/name or "
                "pvc://claim/path",
            ),
        ),
    )
    revision: str | None = sources.revision("adapter")
    token_secret_ref: SecretKeyRef | None = field(
        "Secret with the Hugging Face token for a gated or private adapter. Only the prepare pod "
        "receives the token.",
        None,
        edit=Edit.RETRY,
        unset="the adapter must be public",
    )
    ca_config_map_ref: ConfigMapKeyRef | None = sources.ca(
        "adapter", "the hub, an S3 service or a registry"
    )
    s3: S3 = sources.s3("adapter")
    oci: OCI | None = sources.oci("adapter")
    rules: ClassVar[tuple[Rule, ...]] = tuple(
        sources.only_for(START_FROM, *each) for each in _SCHEMES_OF_FIELD.items()
    )
