"""Messages of kube-scheduler: whether a pod lacks nothing but a GPU."""

import pytest

from finetune_operator.objects.scheduler_message import only_lacks

GPU = "nvidia.com/gpu"
PREEMPTION = " preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."

ONLY_A_GPU = {
    "one node": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
    "with preemption": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu." + PREEMPTION,
    "with resource claims": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. no new claims "
    "to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for "
    "scheduling.",
    "nodes of another pool": "0/3 nodes are available: 1 Insufficient nvidia.com/gpu, 2 node(s) "
    "didn't match Pod's node affinity/selector. preemption: 0/3 nodes are available: 1 No "
    "preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling.",
    "nodes excluded before the filters": "0/5 nodes are available: 1 Insufficient nvidia.com/gpu, "
    "4 node(s) didn't satisfy plugin(s) [NodeAffinity].",
    "tainted control plane": "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) "
    "had untolerated taint {node-role.kubernetes.io/control-plane: }.",
    "several taints": "0/4 nodes are available: 1 node(s) had untolerated taint {dedicated: "
    "db}, 1 node(s) had untolerated taint {gpu: present}, 2 Insufficient nvidia.com/gpu.",
    "taints without names": "0/3 nodes are available: 1 Insufficient nvidia.com/gpu, 2 node(s) had "
    "untolerated taint(s).",
}
MORE_THAN_A_GPU = {
    "empty": "",
    "nothing about GPUs": "0/1 nodes are available: 1 Insufficient cpu.",
    "memory, too": "0/1 nodes are available: 1 Insufficient memory, 1 Insufficient nvidia.com/gpu.",
    "memory on another node": "0/2 nodes are available: 1 Insufficient memory, 1 Insufficient "
    "nvidia.com/gpu.",
    "pods": "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 Too many pods.",
    "another GPU resource": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.shared.",
    "a cordoned node": "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) were "
    "unschedulable.",
    "a node that is not ready": "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) "
    "had untolerated taint {node.kubernetes.io/not-ready: }.",
    "a node under pressure": "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) "
    "had untolerated taint {node.kubernetes.io/disk-pressure: }.",
    "the volume's zone": "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) had "
    "volume node affinity conflict.",
    "the volume's node": "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) didn't "
    "satisfy plugin(s) [VolumeBinding].",
    "two plugins": "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) didn't "
    "satisfy plugin(s) [NodeAffinity VolumeBinding].",
    "no volume": "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. "
    "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
    "another pod": "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) didn't "
    "match pod anti-affinity rules.",
    "a node counted twice": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) had "
    "untolerated taint(s).",
    "a node not counted": "0/3 nodes are available: 1 Insufficient nvidia.com/gpu.",
    "only in the part about preemption": "0/1 nodes are available: 1 Too many pods. preemption: "
    "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
    "a scheduler's error": "running PreFilter plugin: 1 Insufficient nvidia.com/gpu.",
    "another scheduler": "0/2 nodes are unavailable: 2 Insufficient nvidia.com/gpu.",
}


@pytest.mark.parametrize("case", ONLY_A_GPU)
def test_only_a_gpu_is_missing(case: str) -> None:
    assert only_lacks(ONLY_A_GPU[case], GPU)
    assert not only_lacks(ONLY_A_GPU[case], "amd.com/gpu")


@pytest.mark.parametrize("case", MORE_THAN_A_GPU)
def test_more_than_a_gpu_is_missing(case: str) -> None:
    assert not only_lacks(MORE_THAN_A_GPU[case], GPU)


def test_the_resource_is_that_of_the_cluster() -> None:
    assert only_lacks("0/1 nodes are available: 1 Insufficient amd.com/gpu.", "amd.com/gpu")
