"""Configuration of the operator, as rendered by the chart."""

import hashlib
import ssl
from collections.abc import Mapping
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, InstanceOf, ValidationError, field_validator

from finetune_api.base import CamelModel
from finetune_api.contracts.destinations import METADATA, NamespacePorts, Network
from finetune_api.policy.limits import Limits
from finetune_api.v1alpha1.placement import Toleration
from finetune_api.v1alpha1.profile import FrozenProfile
from finetune_operator.signing import SigningKey


def _reject_metadata_services(cidrs: list[Network]) -> list[Network]:
    for cidr in cidrs:
        for service in METADATA:
            if cidr.version == service.version and cidr.subnet_of(service):  # type: ignore[arg-type]
                raise ValueError(
                    f"{cidr} contains only addresses of cloud metadata services, which hand out "
                    "the credentials of the node: remove this range"
                )
    return cidrs


Ranges = Annotated[list[Network], AfterValidator(_reject_metadata_services)]


class Images(CamelModel):
    """Images of the pods of a job, with tag or digest."""

    trainer: str
    serving: str
    operator: str
    """Image of the operator and of the verify container."""


class Endpoint(CamelModel):
    """A server that prepare pods connect to."""

    @property
    def _address(self) -> str:
        raise NotImplementedError

    @property
    def host(self) -> str:
        """Host of the URL; empty without a URL."""
        return urlsplit(self._address).hostname or ""

    @property
    def port(self) -> int:
        """Port of the URL."""
        parts = urlsplit(self._address)
        return parts.port or (80 if parts.scheme == "http" else 443)

    @property
    def address(self) -> Network | None:
        """The host as a range with one address, None if it is a name."""
        try:
            return ip_network(self.host)
        except ValueError:
            return None

    @property
    def namespace(self) -> str | None:
        """Namespace of the host if it is a Service, such as ``hub.models.svc``."""
        parts = self.host.split(".")
        return parts[1] if len(parts) > 2 and parts[2] == "svc" else None

    @property
    def is_outside_name(self) -> bool:
        """Whether the host is a name outside the cluster, which no NetworkPolicy can select."""
        return bool(self.host) and self.namespace is None and self.address is None


class Hub(Endpoint):
    """The model hub; an empty endpoint means the public hub."""

    endpoint: str = ""

    @property
    def _address(self) -> str:
        return self.endpoint


class Proxy(Endpoint):
    """The HTTP proxy of the prepare pods; an empty URL means none.

    ``cidrs`` are the addresses of a proxy whose host is a name outside the cluster. ``no_proxy``
    are host names, domains and addresses that prepare pods reach without the proxy.
    """

    url: str = ""
    cidrs: Ranges = Field(default_factory=list)
    no_proxy: list[str] = Field(default_factory=list)

    @property
    def _address(self) -> str:
        return self.url

    def serves(self, endpoint: Endpoint) -> bool:
        """Report whether prepare pods reach a server, which is no Service, through the proxy."""
        if not self.url or endpoint.namespace is not None:
            return False
        names = [each.lower().lstrip(".") for each in self.no_proxy]
        return not any(
            endpoint.host == each or endpoint.host.endswith(f".{each}") for each in names
        )


class Server(Endpoint):
    """A server to which a job publishes."""

    url: str

    @property
    def _address(self) -> str:
        return self.url


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


NODE_LOCAL_DNS: tuple[Network, ...] = (IPv4Network("169.254.20.10/32"),)
INTERNET: tuple[Network, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
NOT_PUBLIC: tuple[Network, ...] = (
    *map(
        IPv4Network,
        (
            *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"),
            *("0.0.0.0/8", "127.0.0.0/8", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15"),
            *("224.0.0.0/4", "240.0.0.0/4"),
        ),
    ),
    *map(
        IPv6Network,
        (
            *("fc00::/7", "fec0::/10", "::/96", "100::/64", "ff00::/8"),
            *("64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16"),
        ),
    ),
)
"""Private and reserved ranges, and IPv6 ranges through which a gateway reaches IPv4 addresses. No
packet has an IPv4-mapped address (::ffff:0:0/96), so a NetworkPolicy need not exclude it."""


class Dns(CamelModel):
    """DNS servers of the cluster: pods of these namespaces, and these addresses, on these ports.

    The defaults are the pods of kube-system and NodeLocal DNSCache. A NetworkPolicy sees the port
    of the pod, which is 5353 in some clusters.
    """

    namespaces: list[str] = Field(default_factory=lambda: ["kube-system"])
    cidrs: list[Network] = Field(default_factory=lambda: list(NODE_LOCAL_DNS))
    ports: list[int] = Field(default_factory=lambda: [53, 5353], min_length=1)


class Egress(CamelModel):
    """Destinations that prepare pods may reach in addition to the hub (``manifests.egress``).

    The default is port 443 on all public addresses. ``hub_cidrs`` are the addresses of a hub whose
    endpoint is a host name outside the cluster: no policy can select a host name.
    """

    dns: Dns = Dns()
    cidrs: Ranges = Field(default_factory=lambda: list(INTERNET))
    excluded_cidrs: list[Network] = Field(default_factory=lambda: list(NOT_PUBLIC))
    ports: list[int] = Field(default_factory=lambda: [443])
    namespaces: list[NamespacePorts] = Field(default_factory=list)
    hub_cidrs: Ranges = Field(default_factory=list)


class MetricsConfig(CamelModel):
    """How ``/metrics`` is served.

    With ``secure``, over TLS and only for users that the API server authorizes. The certificate is
    in ``certificate_folder``; if empty, it is self-signed.
    """

    secure: bool = True
    certificate_folder: str = ""


class ProcessConfig(CamelModel):
    """How the operator itself runs.

    ``operator_namespace`` is its namespace and that of ``lease_name``, the Lease of all replicas.
    Jobs in ``watch_namespaces`` are reconciled; empty means all. ``signing_key_file`` is the path
    of the private key for statements about published models; empty means that none are signed.
    """

    operator_namespace: str = "finetune-system"
    lease_name: str = "finetune-operator"
    watch_namespaces: list[str] = Field(default_factory=list)
    metrics: MetricsConfig = MetricsConfig()
    log_level: str = "info"
    signing_key_file: str = ""


class Settings(CamelModel):
    """How jobs run: a value, part of every snapshot. Equal settings give equal plans.

    Clients in ``operator_namespace`` and ``scraper_namespaces`` may scrape the pods of jobs.
    ``defaults`` is a partial FineTuneJob spec, which overrides built-in defaults and is overridden
    by each job. ``policy`` limits what jobs may contain. Prepare pods trust ``ca_certificates``
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
