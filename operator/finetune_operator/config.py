"""The operator's configuration, as the chart renders it."""

from ipaddress import IPv4Network, IPv6Network
from typing import Any

from pydantic import Field, field_validator

from finetune_api.base import CamelModel


class Images(CamelModel):
    """Images of the pods that a job consists of, with tag or digest."""

    trainer: str
    serving: str
    operator: str
    """Also that of the container that verifies what is served."""


class Hub(CamelModel):
    """The model hub; an empty endpoint means the public one."""

    endpoint: str = ""


class ServingConfig(CamelModel):
    """How the serving image is started. ``dtype`` overrides the merged model's own."""

    command: list[str] = Field(default_factory=lambda: ["vllm", "serve", "/model"])
    args: list[str] = Field(default_factory=list)
    env: dict[str, str] = Field(default_factory=dict)
    dtype: str = ""
    shm_size: str = "2Gi"


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
"""Where clouds answer a pod's questions about its node's identity: link-local addresses, and those
of Alibaba Cloud (IPv4), AWS and Google Cloud (IPv6), which are not."""


class Dns(CamelModel):
    """Where the cluster's DNS answers: pods of these namespaces, these addresses, on these ports.

    Built in are pods of kube-system and NodeLocal DNSCache. A policy sees the port of the pod,
    which is 5353 in some clusters.
    """

    namespaces: list[str] = Field(default_factory=lambda: ["kube-system"])
    cidrs: list[Network] = Field(default_factory=lambda: list(NODE_LOCAL_DNS))
    ports: list[int] = Field(default_factory=lambda: [53, 5353], min_length=1)


class Egress(CamelModel):
    """Whom the pods of a job may reach beside the hub (``children.egress``).

    Built in is the internet's HTTPS, and no private address.
    """

    dns: Dns = Dns()
    cidrs: list[Network] = Field(default_factory=lambda: list(INTERNET))
    excluded_cidrs: list[Network] = Field(default_factory=lambda: list(PRIVATE))
    ports: list[int] = Field(default_factory=lambda: [443])
    namespaces: list[str] = Field(default_factory=list)

    @field_validator("cidrs")
    @classmethod
    def _open_no_metadata_service(cls, cidrs: list[Network]) -> list[Network]:
        for cidr in cidrs:
            for closed in METADATA:
                if cidr.version == closed.version and cidr.subnet_of(closed):  # type: ignore[arg-type]
                    raise ValueError(
                        f"{cidr} is where clouds tell a pod its node's credentials; it is never "
                        "opened"
                    )
        return cidrs


class OperatorConfig(CamelModel):
    """All settings.

    ``defaults`` is a partial FineTuneJob spec, below the user's values and above the built-in ones.
    ``operator_namespace`` holds the operator, which scrapes the pods of jobs, and the Lease
    ``lease_name`` that all replicas share. Prometheus and other collectors run in
    ``scraper_namespaces``. The operator runs the jobs of ``watch_namespaces``; empty means all.
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
    serving: ServingConfig = ServingConfig()
    defaults: dict[str, Any] = Field(default_factory=dict)
    log_level: str = "info"
