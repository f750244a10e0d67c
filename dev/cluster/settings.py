"""Names, addresses and versions of the local cluster.

Components listen on :data:`NODE_ADDRESS`, an address on a separate bridge, so that they are not
reachable from the network of the machine and do not conflict with its services.
"""

from __future__ import annotations

KUBERNETES_VERSION = "v1.34.4"

BRIDGE = "finetune0"
NODE_NAME = "finetune"
NODE_ADDRESS = "10.97.0.1"
POD_CIDR = "10.244.0.0/24"
SERVICE_CIDR = "10.96.0.0/16"
KUBERNETES_SERVICE = "10.96.0.1"
DNS_SERVICE = "10.96.0.10"
CLUSTER_DOMAIN = "cluster.local"
API_SERVER = f"https://{NODE_ADDRESS}:6443"
CGROUP = "finetune-operator"
FIREWALL_TABLE = "finetune_operator"
CNI_NETWORK = "finetune-operator"

REGISTRY_PORT = 5000
REGISTRY_ADDRESS = f"127.0.0.1:{REGISTRY_PORT}"
REGISTRY = f"localhost:{REGISTRY_PORT}"

GPU_COUNT = 1
GPU_PRODUCT = "NVIDIA-A10G"
SMALL_VOLUMES_SIZE = "64m"

OPERATOR_NAMESPACE = "finetune-system"
OPERATOR_RELEASE = "finetune-operator"
SIGNING_KEY_SECRET = "model-signing"
HUB_NAMESPACE = "hub"

BASE_ANSWER_TOKENS = 40
