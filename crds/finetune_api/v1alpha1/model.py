"""``spec.model`` of a FineTuneJob: the base model."""

from typing import ClassVar

from finetune_api.markers import ApiModel, Edit, field
from finetune_api.rules import Rule, matches
from finetune_api.v1alpha1 import sources
from finetune_api.v1alpha1.references import ConfigMapKeyRef, SecretKeyRef
from finetune_api.v1alpha1.sources import OCI, S3, SCHEMES_OF_FIELD, SCHEMES_OF_MODEL_FIELD


class Model(ApiModel):
    """The base model."""

    source: str = field(
        "Location of the base model. hf://org/name: repository on the Hugging Face Hub. "
        "pvc://claim/path: folder of a PersistentVolumeClaim in the job's namespace. "
        "s3://bucket/prefix: objects in a bucket. oci://registry/repository:tag: image with a "
        "folder /models. https://host/path/SHA256SUMS: list of files and digests. The weights "
        "must be in safetensors files.",
        edit=Edit.RETRAIN,
        max_length=512,
        rules=(
            matches(
                f"{sources.HF_SOURCE}|{sources.CLAIM_SOURCE}|{sources.S3_SOURCE}"
                f"|{sources.OCI_SOURCE}|{sources.HTTPS_SOURCE}",
                "write the model's source as hf://org/name (for example "
                "hf://meta-llama/Meta-Llama-3-8B-Instruct), pvc://claim/path, s3://bucket/prefix, "
                "oci://registry/repository:tag, oci://registry/repository@sha256:digest or "
                "https://host/path/SHA256SUMS",
            ),
        ),
    )
    revision: str | None = sources.revision("model")
    sha256: str | None = sources.sha256("model")
    token_secret_ref: SecretKeyRef | None = sources.token("model")
    ca_config_map_ref: ConfigMapKeyRef | None = sources.ca(
        "model", "the hub, an https:// server, an S3 service or a registry"
    )
    s3: S3 = sources.s3("model")
    oci: OCI | None = sources.oci("model")
    rules: ClassVar[tuple[Rule, ...]] = (
        *sources.rules("model", SCHEMES_OF_FIELD | SCHEMES_OF_MODEL_FIELD),
        Rule(
            cel="!self.source.startsWith('https://') || self.source.endsWith('/SHA256SUMS')",
            message="a model consists of several files: store the output of sha256sum as "
            "SHA256SUMS in the folder of these files, and set model.source to the https:// URL of "
            "SHA256SUMS",
            fails=lambda model: (
                model.source.startswith("https://") and not model.source.endswith("/SHA256SUMS")
            ),
        ),
    )
