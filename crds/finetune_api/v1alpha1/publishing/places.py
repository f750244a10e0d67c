"""The places outside of the cluster where a target of ``spec.publish`` can be."""

from typing import ClassVar

from finetune_api.markers import ApiModel, Edit, field
from finetune_api.rules import matches
from finetune_api.v1alpha1.references import ConfigMapKeyRef, SecretKeyRef, SecretRef
from finetune_api.v1alpha1.sources import OCI_REPOSITORY, PORT, S3_SOURCE, s3_region

REPOSITORY = rf"^{OCI_REPOSITORY}$"
HUB_REPOSITORY = r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$"


def _ca() -> ConfigMapKeyRef | None:
    reference: ConfigMapKeyRef | None = field(
        "ConfigMap with additional CA certificates in PEM format. The publish pod trusts these "
        "certificates when it connects to this target.",
        None,
        edit=Edit.PUBLISH,
        builtin="only the CA certificates in the trainer image and in the chart value "
        "caCertificates",
    )
    return reference


class OCITarget(ApiModel):
    """A repository in an OCI registry."""

    atomic: ClassVar[bool] = True
    repository: str = field(
        "Registry and repository without a tag, such as registry.example.com/models/support.",
        edit=Edit.PUBLISH,
        max_length=255,
        rules=(
            matches(
                REPOSITORY,
                "write oci.repository as the registry and the path of a repository without a tag, "
                "such as registry.example.com/models/support",
            ),
        ),
    )
    secret_ref: SecretRef | None = field(
        "Secret of the type kubernetes.io/dockerconfigjson with the credentials for the registry. "
        "Only the publish pod receives its key .dockerconfigjson.",
        None,
        edit=Edit.PUBLISH,
        unset="the publish pod uses anonymous access",
    )
    ca_config_map_ref: ConfigMapKeyRef | None = _ca()


class S3Target(ApiModel):
    """A prefix in an S3 bucket."""

    atomic: ClassVar[bool] = True
    uri: str = field(
        "Bucket and prefix, such as s3://models/support. The model is stored below this prefix, "
        "in a folder that is named after the digest of its content.",
        edit=Edit.PUBLISH,
        max_length=512,
        rules=(matches(S3_SOURCE, "write s3.uri as s3://<bucket>/<prefix>"),),
    )
    endpoint: str | None = field(
        "URL of the S3 service, such as https://minio.storage.svc:9000.",
        None,
        edit=Edit.PUBLISH,
        builtin="the Amazon S3 endpoint of the region",
        max_length=255,
        rules=(
            matches(
                rf"^https?://[a-z0-9][a-z0-9.-]*({PORT})?$",
                "write s3.endpoint as the URL of an S3 service in lower case, such as "
                "https://minio.storage.svc:9000",
            ),
        ),
    )
    region: str | None = s3_region(edit=Edit.PUBLISH)
    secret_ref: SecretRef | None = field(
        "Secret with the keys AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, optionally, "
        "AWS_SESSION_TOKEN. Only the publish pod receives the values of these keys.",
        None,
        edit=Edit.PUBLISH,
        unset="the publish pod uses the cloud identity of access.serviceAccountName. If "
        "access.serviceAccountName is also unset, the publish pod uses anonymous access",
    )
    ca_config_map_ref: ConfigMapKeyRef | None = _ca()


class HuggingFaceTarget(ApiModel):
    """A repository of the Hugging Face Hub, or of the hub in the chart value hub.endpoint."""

    atomic: ClassVar[bool] = True
    repo: str = field(
        "Owner and name of the model repository, such as acme/support. The publish pod creates the "
        "repository if it does not exist. The repository is on the Hugging Face Hub, or on the hub "
        "that the chart value hub.endpoint names.",
        edit=Edit.PUBLISH,
        max_length=96,
        rules=(
            matches(
                HUB_REPOSITORY,
                "write huggingFace.repo as the owner and the name of a repository, such as "
                "acme/support",
            ),
        ),
    )
    private: bool = field(
        "Create the repository as a private one, and publish to no public repository. If false, "
        "a new repository is public. The visibility of an existing repository is never changed.",
        True,
        edit=Edit.PUBLISH,
    )
    branch: str = field(
        "Branch that gets the commit with the published model. Its earlier commits stay in its "
        "history. The branch is moved only if it does not exist yet, if it has no files, or if "
        "this job published its latest commit.",
        "main",
        edit=Edit.PUBLISH,
        max_length=128,
        rules=(
            matches(
                r"^[A-Za-z0-9_]+([._-]+[A-Za-z0-9_]+)*$",
                "write huggingFace.branch with letters, digits, '.', '_' and '-'",
            ),
        ),
    )
    token_secret_ref: SecretKeyRef | None = field(
        "Secret with an access token that has permission to write to the repository. Only the "
        "publish pod receives the token.",
        None,
        edit=Edit.PUBLISH,
        unset="the publish pod uses anonymous access",
    )
    ca_config_map_ref: ConfigMapKeyRef | None = _ca()
