"""``spec.training.startFrom`` of a FineTuneJob: an adapter to continue from."""

from typing import ClassVar

from finetune_api.markers import ApiModel, Edit, field
from finetune_api.rules import Rule, is_set, matches, requires, starts_with
from finetune_api.v1alpha1 import sources
from finetune_api.v1alpha1.references import ConfigMapKeyRef, SecretKeyRef, object_name
from finetune_api.v1alpha1.sources import OCI, S3, SCHEMES_OF_FIELD, SCHEMES_OF_MODEL_FIELD

START_FROM = "training.startFrom"
"""Path in the spec, and the kind of its source."""
_SCHEMES_OF_FIELD = {
    **{name: schemes for name, schemes in SCHEMES_OF_FIELD.items() if name != "sha256"},
    "tokenSecretRef": ("hf",),
    "caConfigMapRef": ("hf", "s3", "oci"),
    "oci": SCHEMES_OF_MODEL_FIELD["oci"],
}


_PLACES = ("revision", "s3.endpoint")
"""Fields that a published adapter brings along: they are not written next to ``job``."""


def _only_for(path: str, schemes: tuple[str, ...]) -> Rule:
    """Return the rule that a field is set only for some kinds of source.

    Where a job has published its adapter is not known before: any credential may be the right one.
    """
    prefixes = tuple(f"{scheme}://" for scheme in schemes)
    applies = is_set("source") & starts_with("source", *prefixes)
    if path not in _PLACES:
        applies = is_set("job") | applies
    return requires(
        is_set(path),
        applies,
        f"{START_FROM}.{path} applies only to {sources.listed(prefixes)} sources: remove it",
    )


class StartJob(ApiModel):
    """A revision of another FineTuneJob in the same namespace."""

    atomic: ClassVar[bool] = True
    name: str = object_name(
        "Name of the FineTuneJob, in the namespace of this job.",
        kind="FineTuneJob",
        edit=Edit.RETRAIN,
    )
    revision: str | None = field(
        "Name of the revision of that job, as in its status.revisions: 8 hex digits.",
        None,
        edit=Edit.RETRAIN,
        builtin="the revision that is the target of that job when this job starts a revision",
        max_length=8,
        rules=(
            matches(
                r"^[0-9a-f]{8}$",
                "write job.revision as the 8 hex digits of a revision in status.revisions",
            ),
        ),
    )


class StartFrom(ApiModel):
    """A LoRA adapter of the same base model, in the format of PEFT."""

    source: str | None = field(
        "Location of the adapter. Mutually exclusive with job. oci://registry/repository:tag: "
        "image with a folder /models, as spec.publish stores it. s3://bucket/prefix: objects in a "
        "bucket. hf://org/name: repository on the Hugging Face Hub. pvc://claim/path: folder of a "
        "PersistentVolumeClaim in the job's namespace.",
        None,
        edit=Edit.RETRAIN,
        unset="job must be set",
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
    job: StartJob | None = field(
        "FineTuneJob in the namespace of this job that has published the adapter with "
        "spec.publish. Mutually exclusive with source. When a revision of this job starts, the "
        "operator records the digest of the published adapter, which does not change afterwards.",
        None,
        edit=Edit.RETRAIN,
        unset="source must be set",
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
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.source) != has(self.job)",
            message="set exactly one of source and job",
            fails=lambda start: (start.source is None) == (start.job is None),
        ),
        *(_only_for(*restriction) for restriction in _SCHEMES_OF_FIELD.items()),
    )
