"""``spec.model`` of a FineTuneJob: the base model."""

from typing import ClassVar

from finetune_api.markers import ApiModel, Edit, field
from finetune_api.rules import Rule, matches
from finetune_api.v1alpha1 import sources
from finetune_api.v1alpha1.references import ConfigMapKeyRef, SecretKeyRef
from finetune_api.v1alpha1.sources import S3


class Model(ApiModel):
    """The base model."""

    source: str = field(
        "Location of the base model. hf://org/name: repository on the Hugging Face Hub. "
        "pvc://claim/path: folder of a PersistentVolumeClaim in the job's namespace. "
        "s3://bucket/prefix: objects in a bucket. https://host/path/SHA256SUMS: list of the "
        "model's files and their digests. The weights must be in safetensors files.",
        edit=Edit.RETRAIN,
        max_length=512,
        rules=(
            matches(
                f"{sources.HF_SOURCE}|{sources.CLAIM_SOURCE}|{sources.S3_SOURCE}"
                f"|{sources.HTTPS_SOURCE}",
                "write the model's source as hf://org/name (for example "
                "hf://meta-llama/Meta-Llama-3-8B-Instruct), pvc://claim/path, s3://bucket/prefix "
                "or https://host/path/SHA256SUMS",
            ),
        ),
    )
    revision: str | None = sources.revision("model")
    sha256: str | None = sources.sha256("model")
    token_secret_ref: SecretKeyRef | None = sources.token("model")
    ca_config_map_ref: ConfigMapKeyRef | None = sources.ca("model")
    s3: S3 = sources.s3("model")
    rules: ClassVar[tuple[Rule, ...]] = (
        *sources.rules("model"),
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
