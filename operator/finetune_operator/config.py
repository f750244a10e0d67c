"""Configuration of the operator, as rendered by the chart."""

import hashlib
import ssl
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import Field, InstanceOf, ValidationError, field_validator

from finetune_api.base import CamelModel
from finetune_api.contracts.provenance.signatures import MOST_REQUIREMENTS, RequiredSignature
from finetune_api.policy import signatures as signature_policy
from finetune_api.policy.limits import Limits
from finetune_api.v1alpha1.placement import Toleration
from finetune_api.v1alpha1.profile import FrozenProfile
from finetune_operator.connections import Egress, Hub, Proxy
from finetune_operator.signing import SigningKey, check_public_key


class Images(CamelModel):
    """Images of the pods of a job, with tag or digest."""

    trainer: str
    serving: str
    operator: str
    """Image of the operator and of the verify container."""


class ServingConfig(CamelModel):
    """How the serving image is started. ``dtype`` overrides that of the merged model."""

    command: list[str] = Field(default_factory=lambda: ["vllm", "serve", "/model"])
    args: list[str] = Field(default_factory=list)
    env: dict[str, str] = Field(default_factory=dict)
    dtype: str = ""
    shm_size: str = "2Gi"


class GpuConfig(CamelModel):
    """The GPUs of the cluster (``manifests.placement``).

    ``products`` are the cards that GPU pods may run on, the preferred one first, as values of the
    node label nvidia.com/gpu.product; empty means any card. ``required`` is False on a cluster
    whose GPUs are simulated: training then runs on the CPU.
    """

    products: list[str] = Field(default_factory=lambda: ["NVIDIA-A10G", "NVIDIA-L4", "NVIDIA-A10"])
    resource_name: str = "nvidia.com/gpu"
    tolerations: list[Toleration] = Field(
        default_factory=lambda: [
            Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")
        ]
    )
    required: bool = True


class MetricsConfig(CamelModel):
    """How ``/metrics`` is served.

    With ``secure``, over TLS and only for users that the API server authorizes. The certificate is
    in ``certificate_folder``; if empty, it is self-signed.
    """

    secure: bool = True
    certificate_folder: str = ""


class UsageConfig(CamelModel):
    """Whether the GPU time of namespaces is recorded in FineTuneUsages."""

    enabled: bool = False


class KueueConfig(CamelModel):
    """Whether the operator reads the queues of Kueue."""

    enabled: bool = False


class SinkConfig(CamelModel):
    """The receiver of CloudEvents about jobs; an empty URL means none.

    ``token_file`` is the path of a bearer token, empty if the sink needs none.
    """

    url: str = ""
    token_file: str = ""

    @field_validator("url")
    @classmethod
    def _require_http(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("set an http:// or https:// URL")
        if parts.username is not None or parts.password is not None:
            raise ValueError(
                "remove the user name and the password; the chart value "
                "notifications.sink.tokenSecret names a Secret with a token"
            )
        return url


class ProcessConfig(CamelModel):
    """How the operator itself runs.

    ``operator_namespace`` is its namespace and that of ``lease_name``, the Lease of all replicas.
    Jobs in ``watch_namespaces`` are reconciled; empty means all. ``signing_key_file`` is the path
    of the private key for statements about published models; empty means that none are signed.
    ``sink`` gets events about jobs.
    """

    operator_namespace: str = "finetune-system"
    lease_name: str = "finetune-operator"
    watch_namespaces: list[str] = Field(default_factory=list)
    metrics: MetricsConfig = MetricsConfig()
    usage: UsageConfig = UsageConfig()
    kueue: KueueConfig = KueueConfig()
    log_level: str = "info"
    signing_key_file: str = ""
    sink: SinkConfig = SinkConfig()


class Settings(CamelModel):
    """How jobs run: a value, part of every snapshot. Equal settings give equal plans.

    Clients in ``operator_namespace`` and ``scraper_namespaces`` may scrape the pods of jobs.
    ``defaults`` is a partial FineTuneJob spec, which overrides built-in defaults and is overridden
    by each job. ``policy`` limits what jobs may contain, and ``signatures`` are those that their
    sources need (``policy.signatures`` of the chart). Prepare pods trust ``ca_certificates``
    (PEM) in addition to those of their image. The order of the fields is that of operator.json.
    ``signing_key`` comes from a file, not from the document, and no text about the settings has it.
    ``profile`` is the profile whose values these are, if they are those of one.
    """

    operator_namespace: str = "finetune-system"
    scraper_namespaces: list[str] = Field(default_factory=list)
    egress: Egress = Egress()
    images: Images
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: list[str] = Field(default_factory=list)
    hub: Hub = Hub()
    proxy: Proxy = Proxy()
    ca_certificates: str = ""
    gpu: GpuConfig = GpuConfig()
    serving: ServingConfig = ServingConfig()
    defaults: dict[str, Any] = Field(default_factory=dict)
    policy: Limits = Limits()
    signatures: tuple[RequiredSignature, ...] = Field((), max_length=MOST_REQUIREMENTS)
    signing_key: InstanceOf[SigningKey] | None = Field(None, exclude=True, repr=False)
    profile: FrozenProfile | None = Field(None, exclude=True)

    @field_validator("ca_certificates")
    @classmethod
    def _require_certificates(cls, text: str) -> str:
        if not text.strip():
            return ""
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
        except (ssl.SSLError, ValueError) as error:
            raise ValueError(f"no CA certificates in PEM format ({error})") from error
        return text

    @field_validator("signatures")
    @classmethod
    def _require_usable(cls, required: tuple[RequiredSignature, ...]) -> Any:
        for number, signature in enumerate(required):
            try:
                for pattern in signature.sources:
                    signature_policy.check(pattern)
                for key in signature.keys:
                    check_public_key(key)
            except ValueError as error:
                raise ValueError(f"policy.signatures[{number}]: {error}") from error
        return required

    @cached_property
    def digest(self) -> str:
        """SHA-256 digest (hex) of all values; of the signing key, only its public part is used."""
        key = "" if self.signing_key is None else self.signing_key.id
        profile = "" if self.profile is None else self.profile.model_dump_json()
        return hashlib.sha256((self.model_dump_json() + key + profile).encode()).hexdigest()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with other values, and therefore another digest."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("digest", None)
        return copied

    def __eq__(self, other: object) -> bool:
        """Report whether all values are equal."""
        return isinstance(other, Settings) and self.digest == other.digest

    def __hash__(self) -> int:
        """Return the hash of the values."""
        return hash(self.digest)


def parsed(document: Any) -> tuple[ProcessConfig, Settings]:
    """Return the two parts of the document that the chart renders. Raises ValidationError."""
    if not isinstance(document, dict):
        # The error says what is there instead.
        document = Settings.model_validate(document)
    process = {info.alias for info in ProcessConfig.model_fields.values()}
    settings = {info.alias for info in Settings.model_fields.values()}
    of_process = {name: value for name, value in document.items() if name in process}
    of_jobs = {
        name: value for name, value in document.items() if name in settings or name not in process
    }
    parts: list[Any] = []
    errors: list[Any] = []
    for model, values in ((ProcessConfig, of_process), (Settings, of_jobs)):
        try:
            parts.append(model.model_validate(values))
        except ValidationError as error:
            errors += error.errors()
    if errors:
        raise ValidationError.from_exception_data("the configuration", errors)
    return parts[0], parts[1]
