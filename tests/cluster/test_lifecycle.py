"""The lifecycle of the local cluster: repair after kill -9, paths with spaces, complete removal.

The tests share a cluster and run in this order; the last one removes it.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.cluster import traces

from cluster import cleanup, kubectl, paths
from cluster.host import processes

COPIED = ("dev",)
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "lifecycle", "namespace": "default"},
    "spec": {"containers": [{"name": "sleep", "image": "", "command": ["sleep", "3600"]}]},
}


def cluster(command: str, repository: Path = paths.REPO) -> str:
    """Run a command of the local cluster, which must succeed; return its output."""
    words = [sys.executable, str(repository / "dev" / "cluster"), command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pids() -> dict[str, int]:
    """Return the PID of each recorded process that is running."""
    found = {name: processes.alive(name) for name in processes.recorded()}
    return {name: record.pid for name, record in found.items() if record is not None}


def pod_status() -> dict[str, object]:
    status: dict[str, object] = kubectl.local().get("pod", "lifecycle")["status"]
    return status


def connected(pid: int) -> bool:
    """Report whether a process has an open socket."""
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if file.readlink().name.startswith("socket:"):
                return True
    return False


def echo_in_pod(client: kubectl.Client, *, seconds: float) -> str:
    """Run echo in the pod; retry until the restarted kubelet knows the pod.

    kubectl exec prints nothing and returns 0 if it loses the connection.
    """
    deadline = time.monotonic() + seconds
    while True:
        done = client.kubectl("exec", "lifecycle", "--", "echo", "alive", check=False)
        if (done.returncode == 0 and done.stdout) or time.monotonic() > deadline:
            assert done.returncode == 0, done.stderr
            return done.stdout
        time.sleep(0.5)


@pytest.fixture(scope="module", autouse=True)
def running() -> None:
    cluster("up")


def test_up_reuses_running_processes() -> None:
    before = pids()
    cluster("up")
    assert pids() == before


def test_up_restarts_killed_processes_and_pods_keep_running() -> None:
    client = kubectl.local()
    helper = json.loads((paths.ETC / "local-path-helper.json").read_text())
    POD["spec"]["containers"][0]["image"] = helper["spec"]["containers"][0]["image"]  # type: ignore[index]
    client.apply(POD)
    client.kubectl("wait", "pod/lifecycle", "--for=condition=Ready", "--timeout=300s")
    before = pids()
    started = pod_status()["containerStatuses"]
    for name in ("kube-apiserver", "containerd", "kubelet"):
        os.kill(before[name], signal.SIGKILL)
    printed = cluster("up")
    after = pids()
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"kube-apiserver", "containerd", "kubelet"}, printed
    client.kubectl("wait", "pod/lifecycle", "--for=condition=Ready", "--timeout=300s")
    assert pod_status()["containerStatuses"] == started
    assert echo_in_pod(client, seconds=300) == "alive\n"
    node = client.get("node")["items"][0]
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "1"
    assert node["metadata"]["labels"]["nvidia.com/gpu.product"] == "NVIDIA-A10G"


def test_up_repairs_a_process_that_ends_while_it_waits_for_it() -> None:
    before = pids()
    killed = before["kube-apiserver"]
    os.kill(killed, signal.SIGSTOP)
    words = [sys.executable, str(paths.REPO / "dev" / "cluster"), "up"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as starting:
        assert starting.stdout is not None
        lines = iter(starting.stdout.readline, "")
        printed = [next(line for line in lines if "start the control plane" in line)]
        # Its first connection is the request for the health of the API server.
        while not connected(starting.pid):
            assert starting.poll() is None, printed
            time.sleep(0.01)
        os.kill(killed, signal.SIGKILL)
        printed += lines
    assert starting.returncode == 0, printed
    after = pids()
    assert after.keys() == before.keys()
    assert {name for name in before if after[name] != before[name]} == {"kube-apiserver"}, printed
    assert any("kube-apiserver exited" in line for line in printed)


def test_up_resumes_an_interrupted_start() -> None:
    cluster("down")
    for reached in ("etcd", "kubelet"):
        words = [sys.executable, str(paths.REPO / "dev" / "cluster"), "up"]
        with subprocess.Popen(words, stdout=subprocess.DEVNULL) as starting:
            while processes.alive(reached) is None:
                assert starting.poll() is None, f"up ended before {reached} was running"
                time.sleep(0.005)
            starting.kill()
    cluster("up")
    assert set(pids()) == set(cleanup.ORDER)
    node = kubectl.local().get("node")["items"][0]
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "1"


def test_up_works_from_a_path_with_spaces(tmp_path: Path) -> None:
    repository = tmp_path / "a path with spaces"
    for name in COPIED:
        shutil.copytree(paths.REPO / name, repository / name)
    before = pids()
    cluster("up", repository)
    assert pids() == before


def test_down_removes_all_traces_except_images() -> None:
    assert traces.all_of_them().keys() >= {"processes", "mounts", "links", "firewall"}
    cluster("down")
    assert traces.all_of_them() == {}
    assert list(paths.IMAGES.glob("registry/*")), "the registry keeps the images for the next start"
