"""``spec.model`` of a FineTuneJob: the base model."""

from typing import ClassVar

from finetune_api.markers import ApiModel, Edit, Rule, field, matches
from finetune_api.v1alpha1 import sources
from finetune_api.v1alpha1.references import ConfigMapKeyRef, SecretKeyRef
from finetune_api.v1alpha1.sources import S3


class Model(ApiModel):
    """The base model."""

    source: str = field(
        "Where the base model is: a repository on the hub as hf://org/name, a folder of a "
        "PersistentVolumeClaim in the job's namespace as pvc://claim/path, a prefix in S3 as "
        "s3://bucket/prefix, or a list of files as https://host/path/SHA256SUMS. It must hold "
        "safetensors.",
        edit=Edit.RETRAIN,
        max_length=512,
        rules=(
            matches(
                f"{sources.HF_SOURCE}|{sources.CLAIM_SOURCE}|{sources.S3_SOURCE}"
                f"|{sources.HTTPS_SOURCE}",
                "write the model's repository as hf://org/name, "
                "for instance hf://meta-llama/Meta-Llama-3-8B-Instruct, "
                "or its folder as pvc://claim/path, s3://bucket/prefix or "
                "https://host/path/SHA256SUMS",
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
            message="a model is several files: over https://, write the address of the list of "
            "them that sha256sum prints, named SHA256SUMS and beside them",
            fails=lambda m: (
                m.source.startswith("https://") and not m.source.endswith("/SHA256SUMS")
            ),
        ),
    )
