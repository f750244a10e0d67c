"""``spec.access`` of a FineTuneJob: the identity with which the job accesses cloud services."""

from finetune_api.markers import ApiModel
from finetune_api.v1alpha1.references import object_name


class Access(ApiModel):
    """Identity with which the job accesses cloud services."""

    service_account_name: str | None = object_name(
        "ServiceAccount of the prepare pod, and of the publish pod if a target in S3 has no "
        "secretRef. The pods use the cloud identity of this ServiceAccount to read s3:// sources "
        "and to write to these targets. They get no token for the Kubernetes API. Other pods do "
        "not use this ServiceAccount.",
        None,
        kind="ServiceAccount",
        builtin="none",
    )
