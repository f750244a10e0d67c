"""Kubeflow Trainer with JobSet, beside the operator: seconds until every TrainJob has its Job.

Both managers are built from their Go modules and run on the same API server settings as the
operator, without client rate limits. Their webhooks are not registered; a real installation also
pays for the round trips to them. No pod runs, as before the first child of the operator's jobs.
"""

import asyncio
import os
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import yaml
from tests.support.api_server import controlplane
from tests.support.api_server.controlplane import ControlPlane
from tests.support.ports import free_ports

from bench.simulated import harness
from bench.simulated.api_client import Api
from cluster import paths
from cluster.artifacts import gomodule
from cluster.artifacts.gomodule import Module

VERSION = "2.3.0"
TRAINER = Module(
    path="github.com/kubeflow/trainer/v2",
    version=f"v{VERSION}",
    packages={"trainer": "./cmd/trainer-controller-manager"},
)
JOBSET = Module(path="sigs.k8s.io/jobset", version="v0.12.0", packages={"jobset": "."})
CACHE = paths.CACHE / "bench" / f"kubeflow-{VERSION}"
TRAINJOBS = "/apis/trainer.kubeflow.org/v1alpha1"
QPS = 5000
PATIENCE_SECONDS = 1800.0
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class PeerFigures:
    """Results for one number of TrainJobs."""

    first_child: float
    processor_seconds: float
    """Of both managers."""


@dataclass(frozen=True, kw_only=True)
class Programs:
    """The built managers, and the folders of their modules."""

    trainer: Path
    jobset: Path
    trainer_module: Path
    jobset_module: Path


def programs() -> Programs:
    """Build the managers, or return those of an earlier run. Raise ClusterError on a failure."""
    return Programs(
        trainer=CACHE / "trainer",
        jobset=CACHE / "jobset",
        trainer_module=gomodule.build(TRAINER, CACHE),
        jobset_module=gomodule.build(JOBSET, CACHE),
    )


def run(
    plane: ControlPlane, folder: Path, built: Programs, size: int, per_namespace: int
) -> PeerFigures:
    """Create TrainJobs and wait until each has its Job."""
    crds = built.jobset_module / "config" / "components" / "crd" / "bases"
    _install(plane, crds)
    _install(plane, built.trainer_module / "manifests" / "base" / "crds")
    health = free_ports(4)
    with ExitStack() as stack:
        managers = [
            stack.enter_context(
                controlplane.process(
                    [program, "--config", _configured(folder, name, kind, *health[at : at + 2])],
                    folder / f"{name}.log",
                    {
                        **os.environ,
                        "KUBECONFIG": str(plane.kubeconfig),
                        "TMPDIR": str(_certificates(folder, name)),
                    },
                )
            )
            for program, name, kind, at in (
                (built.jobset, "jobset", "config.jobset.x-k8s.io/v1alpha1", 0),
                (built.trainer, "trainer", "config.trainer.kubeflow.org/v1alpha1", 2),
            )
        ]
        _create_runtime(plane)
        try:
            seconds = asyncio.run(_created(plane, size, per_namespace))
        except TimeoutError:
            for log in ("jobset", "trainer"):
                print((folder / f"{log}.log").read_text()[-3000:])
            raise
        spent = sum(_processor_seconds(manager.pid) for manager in managers)
    return PeerFigures(first_child=seconds, processor_seconds=spent)


def _install(plane: ControlPlane, folder: Path) -> None:
    for file in sorted(folder.glob("*_*.yaml")):
        crd = yaml.safe_load(file.read_text(encoding="utf-8"))
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        plane.post(path, crd)
        _wait_until_established(plane, f"{path}/{crd['metadata']['name']}")


def _wait_until_established(plane: ControlPlane, path: str) -> None:
    def established() -> bool:
        conditions = plane.get(path).get("status", {}).get("conditions") or ()
        return ("Established", "True") in {
            (condition["type"], condition["status"]) for condition in conditions
        }

    controlplane.wait_until(f"{path} is established", established)


def _configured(folder: Path, name: str, api_version: str, probes: int, webhooks: int) -> Path:
    """Write the configuration of a manager: no client limits, no leader election."""
    disabled = {"enable": False}
    config: dict[str, Any] = {
        "apiVersion": api_version,
        "kind": "Configuration",
        "health": {"healthProbeBindAddress": f"127.0.0.1:{probes}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"port": webhooks},
        "leaderElection": {"leaderElect": False},
        "clientConnection": {"qps": QPS, "burst": QPS},
        **(
            {"internalCertManagement": disabled}
            if name == "jobset"
            else {"certManagement": disabled}
        ),
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return file


def _certificates(folder: Path, name: str) -> Path:
    """Return a folder for temporary files with the certificate that a webhook server needs."""
    temporary = folder / f"{name}-files"
    certificates = temporary / "k8s-webhook-server" / "serving-certs"
    certificates.mkdir(parents=True)
    key, certificate = certificates / "tls.key", certificates / "tls.crt"
    command: list[str | Path] = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes"]
    command += ["-days", "1", "-subj", "/CN=localhost", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    return temporary


def _create_runtime(plane: ControlPlane) -> None:
    container = {"name": "node", "image": "registry.test/trainer:1"}
    pods = {"restartPolicy": "OnFailure", "containers": [container]}
    job = {"completionMode": "Indexed", "template": {"spec": pods}}
    label = {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    template = {"metadata": {"labels": label}, "spec": job}
    # JobSet's webhook would fill in the network, the policies and the modes.
    jobset = {
        "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
        "successPolicy": {"operator": "All"},
        "startupPolicy": {"startupPolicyOrder": "AnyOrder"},
        "replicatedJobs": [{"name": "node", "replicas": 1, "template": template}],
    }
    plane.post(
        f"{TRAINJOBS}/clustertrainingruntimes",
        {
            "apiVersion": "trainer.kubeflow.org/v1alpha1",
            "kind": "ClusterTrainingRuntime",
            "metadata": {"name": "torch", "labels": {"trainer.kubeflow.org/framework": "torch"}},
            "spec": {
                "mlPolicy": {"numNodes": 1, "torch": {}},
                "template": {"spec": jobset},
            },
        },
    )


async def _created(plane: ControlPlane, size: int, per_namespace: int) -> float:
    """Create TrainJobs; return the seconds until as many Jobs exist."""
    async with Api(plane) as api:
        namespaces = await harness.create_namespaces(api, size, per_namespace)
        jobs: set[str] = set()
        complete = asyncio.Event()

        async def create(number: int) -> None:
            path = f"{TRAINJOBS}/namespaces/{namespaces[number % len(namespaces)]}/trainjobs"
            body = {
                "apiVersion": "trainer.kubeflow.org/v1alpha1",
                "kind": "TrainJob",
                "metadata": {"name": f"job-{number}"},
                "spec": {"runtimeRef": {"name": "torch"}},
            }
            await api.send("POST", path, body)

        async def count() -> None:
            async for _, job in api.watch("/apis/batch/v1/jobs", ""):
                jobs.add(job["metadata"]["uid"])
                if len(jobs) == size:
                    complete.set()

        counting = asyncio.create_task(count())
        began = monotonic()
        await harness.concurrently(size, create)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await complete.wait()
        counting.cancel()
        return monotonic() - began


def _processor_seconds(pid: int) -> float:
    """Return the processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK
