"""``spec.tracking`` of a FineTuneJob: a server that gets parameters, metrics and links of a job."""

from typing import ClassVar

from finetune_api.markers import ApiModel, Edit, field
from finetune_api.rules import matches
from finetune_api.v1alpha1.publishing.targets import PublishTarget
from finetune_api.v1alpha1.references import ConfigMapKeyRef, SecretRef
from finetune_api.v1alpha1.sources import PORT

NAME = "mlflow"
"""Name of the tracking server in ``status.publish``, which no target of ``spec.publish`` has."""
PREFIX = "mlflow+"
"""Begins the destination of a tracking server, in the chart value policy.publishDestinations."""
_SEGMENT = r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)"
"""One part of a path. It must not begin with a dot: clients remove dot segments, so that a request
would leave the path that the policy allows."""


class MLflow(ApiModel):
    """An MLflow tracking server."""

    atomic: ClassVar[bool] = True
    uri: str = field(
        "URL of the MLflow tracking server, such as https://mlflow.example.com.",
        edit=Edit.PUBLISH,
        max_length=255,
        rules=(
            matches(
                rf"^https?://[a-z0-9][a-z0-9.-]*({PORT})?{_SEGMENT}*$",
                "write mlflow.uri as the URL of a tracking server with its host in lower case, "
                "without a slash at the end, and without a part of the path that begins with a "
                "dot, such as https://mlflow.example.com",
            ),
        ),
    )
    experiment: str | None = field(
        "Name of the MLflow experiment. The publish pod creates the experiment if it does not "
        "exist. Each revision of the job is one run of the experiment.",
        None,
        edit=Edit.PUBLISH,
        builtin="<namespace>/<job>",
        min_length=1,
        max_length=250,
    )
    registered_model: str | None = field(
        "Name of a registered model that gets a version for each published model. The source of "
        "the version is a target of publish by digest: the first one with the merged model, or "
        "else the first one.",
        None,
        edit=Edit.PUBLISH,
        unset="no model is registered",
        max_length=250,
        rules=(
            matches(
                r"^[^/:\s]([^/:]*[^/:\s])?$",
                "write mlflow.registeredModel without '/', ':' and surrounding white space",
            ),
        ),
    )
    secret_ref: SecretRef | None = field(
        "Secret with the key MLFLOW_TRACKING_TOKEN, or with the keys MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD. Only the publish pod receives the values of these keys.",
        None,
        edit=Edit.PUBLISH,
        unset="the publish pod uses anonymous access",
    )
    ca_config_map_ref: ConfigMapKeyRef | None = field(
        "ConfigMap with additional CA certificates in PEM format. The publish pod trusts these "
        "certificates when it connects to the tracking server.",
        None,
        edit=Edit.PUBLISH,
        builtin="only the CA certificates in the trainer image and in the chart value "
        "caCertificates",
    )


class Tracking(ApiModel):
    """A tracking server."""

    atomic: ClassVar[bool] = True
    mlflow: MLflow = field("An MLflow tracking server.", edit=Edit.PUBLISH)


class TrackingServer(PublishTarget):
    """A tracking server as one of the targets of publishing. It is no part of the API."""

    mlflow: MLflow

    @classmethod
    def of(cls, tracking: Tracking) -> "TrackingServer":
        """Return the server of a spec. It gets the results of the training."""
        return cls.model_construct(
            name=NAME, what="adapter", when="Trained", mlflow=tracking.mlflow
        )

    @property
    def destination(self) -> str:
        """As of a target."""
        return f"{PREFIX}{self.mlflow.uri}"

    @property
    def moving_names(self) -> tuple[str, ...]:
        """As of a target."""
        return ()

    @property
    def secret(self) -> SecretRef | None:
        """As of a target."""
        return self.mlflow.secret_ref

    @property
    def certificates(self) -> ConfigMapKeyRef | None:
        """As of a target."""
        return self.mlflow.ca_config_map_ref
