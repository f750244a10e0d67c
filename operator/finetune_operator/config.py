"""Configuration of the operator, as rendered by the chart."""

from ipaddress import IPv4Network, IPv6Network
from typing import Any

from pydantic import Field, field_validator

from finetune_api.base import CamelModel
from finetune_api.v1alpha1.placement import Toleration


class Images(CamelModel):
    """Images of the pods of a job, with tag or digest."""

    trainer: str
    serving: str
    operator: str
    """Image of the operator and of the verify container."""


class Hub(CamelModel):
    """The model hub; an empty endpoint means the public hub."""

    endpoint: str = ""


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


Network = IPv4Network | IPv6Network

NODE_LOCAL_DNS: tuple[Network, ...] = (IPv4Network("169.254.20.10/32"),)
INTERNET: tuple[Network, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
PRIVATE: tuple[Network, ...] = (
    IPv4Network("10.0.0.0/8"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
    IPv4Network("100.64.0.0/10"),
    IPv6Network("fc00::/7"),
)
METADATA: tuple[Network, ...] = (
    IPv4Network("169.254.0.0/16"),
    IPv4Network("100.100.100.200/32"),
    IPv6Network("fe80::/10"),
    IPv6Network("fd00:ec2::254/128"),
    IPv6Network("fd20:ce::254/128"),
)
"""Metadata services, which hand out the credentials of a node: link-local addresses, and those of
Alibaba Cloud (IPv4), AWS and Google Cloud (IPv6)."""


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

    The default is port 443 on all public addresses.
    """

    dns: Dns = Dns()
    cidrs: list[Network] = Field(default_factory=lambda: list(INTERNET))
    excluded_cidrs: list[Network] = Field(default_factory=lambda: list(PRIVATE))
    ports: list[int] = Field(default_factory=lambda: [443])
    namespaces: list[str] = Field(default_factory=list)

    @field_validator("cidrs")
    @classmethod
    def _reject_metadata_services(cls, cidrs: list[Network]) -> list[Network]:
        for cidr in cidrs:
            for service in METADATA:
                if cidr.version == service.version and cidr.subnet_of(service):  # type: ignore[arg-type]
                    raise ValueError(
                        f"{cidr} contains only a cloud metadata service, which hands out the "
                        "credentials of the node; it is never opened, remove it"
                    )
        return cidrs


class OperatorConfig(CamelModel):
    """All settings.

    ``operator_namespace`` is the namespace of the operator and of ``lease_name``, the Lease of all
    its replicas. Jobs in ``watch_namespaces`` are reconciled; empty means all. Clients in
    ``scraper_namespaces`` may scrape the pods of jobs. ``defaults`` is a partial FineTuneJob spec,
    which overrides built-in defaults and is overridden by each job.
    """

    operator_namespace: str = "finetune-system"
    lease_name: str = "finetune-operator"
    watch_namespaces: list[str] = Field(default_factory=list)
    scraper_namespaces: list[str] = Field(default_factory=list)
    egress: Egress = Egress()
    images: Images
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: list[str] = Field(default_factory=list)
    hub: Hub = Hub()
    gpu: GpuConfig = GpuConfig()
    serving: ServingConfig = ServingConfig()
    defaults: dict[str, Any] = Field(default_factory=dict)
    log_level: str = "info"
