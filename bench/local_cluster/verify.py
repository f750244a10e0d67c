"""``python bench verify``: rollouts that must be verified, and faults that must not, on real vLLM.

Two jobs with the same rows: one is computed in float32, as the local cluster is configured, the
other in the 16-bit format of the served weights, as on a GPU. For the latter the operator is
installed with another value, and restored at the end. Every rollout is an edit of a serving job.
"""

import argparse
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.e2e.loading import under_load
from tests.e2e.planting import FOUND_BY, candidate
from tests.support.local_cluster import gpus, recorder
from tests.support.local_cluster.target import Cluster, local_kubectl, namespaces
from tests.support.local_cluster.tuning import Tuning, condition, small

from bench.table import table
from cluster import install, kubectl

NAMESPACE = "e2e-bench-verify"
ROWS = "rows"
ROW_COUNT, PACKAGES = 24, 12
"""Rows, and packages listed per answer: a dozen rows hold the 2,000 tokens of a reference."""
READY_SECONDS = 900.0
SPEC = small(
    dataset={"source": f"configmap://{ROWS}/train.jsonl", "maxSamples": None},
    training={"maxSteps": 8, "sequenceLength": 512, "seed": 1},
    storage={"size": "8Gi"},
)


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """An edit that creates a build, and its rollout strategy."""

    rollout: str
    base: str = "dequantized"
    weights: str = "float16"
    mode: str = "merged"
    served_in: str | None = None
    """``serving.dtype`` of an adapter."""
    seed: int = 1

    def change(self, tuning: Tuning) -> None:
        """Edit the job."""
        tuning.change(
            training={"seed": self.seed},
            merge={"base": self.base, "dtype": self.weights},
            serving={"mode": self.mode, "dtype": self.served_in, "rollout": self.rollout},
        )


KEEP, FREE = "KeepServing", "FreeGPU"
IN_FLOAT32 = (
    Rollout(rollout=KEEP),
    Rollout(rollout=FREE, weights="bfloat16"),
    Rollout(rollout=KEEP, base="original"),
    Rollout(rollout=KEEP, base="original", weights="bfloat16"),
    Rollout(rollout=FREE, mode="adapter"),
)
IN_16_BITS = (
    Rollout(rollout=KEEP),
    Rollout(rollout=FREE, weights="bfloat16"),
    Rollout(rollout=KEEP, base="original"),
    Rollout(rollout=FREE, base="original", weights="bfloat16"),
    Rollout(rollout=KEEP, mode="adapter", served_in="float16"),
    Rollout(rollout=KEEP, mode="adapter", served_in="bfloat16"),
    # The next revision, which retains the previous one; faults are planted into its builds.
    Rollout(rollout=KEEP, seed=2),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command. Each rollout takes about ten minutes."""
    parser.add_argument("--computed", choices=("float32", "served"), help="run only this half")


def measure(options: argparse.Namespace) -> str:
    """Roll out, plant the faults, and return the tables."""
    honest: list[tuple[str, ...]] = []
    faults: list[tuple[str, ...]] = []
    print("==> check cluster, images and operator", flush=True)
    client = local_kubectl()
    with recorder.recording(client) as record:
        cluster = Cluster(kubectl=client, record=record)
        cluster.wait_for_operator()
        cluster.require_free_gpu()
        with namespaces(cluster, NAMESPACE):
            cluster.kubectl.apply(_rows(), namespace=NAMESPACE)
            if options.computed != "served":
                tuning = _job(cluster, "float32")
                honest += [_rolled_out(tuning, rollout, "float32") for rollout in IN_FLOAT32]
                tuning.delete(seconds=120)
            if options.computed != "float32":
                tuning = _job(cluster, "served")
                with _computed_as_served():
                    honest += [_rolled_out(tuning, rollout, "16 bits") for rollout in IN_16_BITS]
                    faults += _planted(tuning)
    return "\n\n".join([_honest_table(honest), *([_fault_table(faults)] if faults else [])])


def _job(cluster: Cluster, name: str) -> Tuning:
    return Tuning(cluster=cluster, namespace=NAMESPACE, name=name)


def _rolled_out(tuning: Tuning, rollout: Rollout, computed: str) -> tuple[str, ...]:
    """Roll out one build; return its row. Raise WaitTimeout if it is not verified."""
    what = f"{rollout.mode} {rollout.base} {rollout.weights}, in {computed}, {rollout.rollout}"
    print(f"==> {what}", flush=True)
    before = tuning.status().get("verification", {}).get("pod")
    began = time.monotonic()
    with gpus.advertised(tuning.cluster, 2 if rollout.rollout == KEEP else 1):
        if before is None:
            tuning.apply(SPEC)
        rollout.change(tuning)
        verified: Any = tuning.wait(
            f"{what}: verified",
            lambda now: _verification(now, other_than=before),
            seconds=READY_SECONDS,
        )
    print(f"    {verified} ({time.monotonic() - began:.0f} s)", flush=True)
    adapter = rollout.mode == "adapter"
    distance, tolerance = float(verified["distance"]), float(verified["tolerance"])
    return (
        rollout.mode,
        "original" if adapter else rollout.base,
        "float16 (base)" if adapter else rollout.weights,
        "float32" if computed == "float32" else rollout.served_in or rollout.weights,
        rollout.rollout,
        verified["outcome"],
        f"{distance:.2g}",
        f"{tolerance:.2g}",
        f"{100 * distance / tolerance:.0f} %",
    )


def _verification(now: Any, *, other_than: str | None) -> Any:
    """Return the verification of the serving pod once that is another pod.

    Not every edit creates a build: an adapter that is computed in another type keeps its build.
    """
    ready = condition(now, "Ready")
    build = now.get("serving", {}).get("build")
    verification = now.get("verification", {})
    fits = (
        ready is not None
        and ready["status"] == "True"
        and verification.get("pod") not in (None, other_than)
        and verification.get("build") == build == now.get("build")
    )
    return verification if fits else None


def _planted(tuning: Tuning) -> list[tuple[str, ...]]:
    """Plant every fault into a bfloat16 build, the coarsest type; return the rows."""
    lines: list[tuple[str, ...]] = []
    revisions = tuning.status()["revisions"]
    previous = next(
        stage["build"]
        for revision in revisions
        if revision["revision"] != tuning.status()["revision"]
        for stage in revision["stages"]
        if stage["stage"] == "merge"
    )
    with (
        gpus.advertised(tuning.cluster, 4),
        candidate(tuning, previous=previous, dtype="bfloat16", base="dequantized") as planted,
        under_load(tuning) as load,
    ):
        for fault in FOUND_BY:
            print(f"==> plant the fault {fault}", flush=True)
            attempt = planted.serve(fault)
            caught = attempt["outcome"] == "Failed" and FOUND_BY[fault] in attempt["message"]
            numbers = re.search(
                r"reference is (\S+) nats over .*tolerance is (\S+) nats;",
                attempt.get("message", ""),
            )
            distance, tolerance = numbers.groups() if numbers else ("", "")
            ready = "yes" if planted.was_ready(attempt["attempt"]) else "no"
            lines.append((fault, "yes" if caught else "NO", ready, distance, tolerance))
            if attempt["outcome"] == "Completed":
                print(
                    "    the fault is served: no further fault can be planted into this build",
                    flush=True,
                )
                break
        print(f"==> requests in the meantime: {load.end()}", flush=True)
    return lines


@contextmanager
def _computed_as_served() -> Iterator[None]:
    """Install the operator so that vLLM computes in the format of the served weights."""
    images, client = install.local_images(), kubectl.local()
    values = yaml.safe_load(install.VALUES.read_text(encoding="utf-8"))
    values["serving"]["dtype"] = ""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values, file)
        file.flush()
        install.install(client, images, values=Path(file.name))
    try:
        yield
    finally:
        install.install(client, images, values=install.VALUES)


def _rows() -> dict[str, Any]:
    """Return a ConfigMap of rows with long answers: lists of Debian packages."""
    done = subprocess.run(
        ["apt-cache", "dumpavail"], capture_output=True, text=True, errors="replace", check=True
    )
    descriptions = re.findall(r"^Package: (\S+)\n(?:.+\n)*?Description: (\S.*)$", done.stdout, re.M)
    lines = []
    for at in range(0, ROW_COUNT * PACKAGES, PACKAGES):
        packages = descriptions[at : at + PACKAGES]
        row = {
            # "the" is one of the words whose ids the faulty tokenizer swaps.
            "instruction": f"List the {PACKAGES} Debian packages from {packages[0][0]} on.",
            "input": "",
            "output": "\n".join(f"{name}: {text}" for name, text in packages),
        }
        lines.append(json.dumps(row) + "\n")
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": ROWS},
        "data": {"train.jsonl": "".join(lines)},
    }


def _honest_table(lines: list[tuple[str, ...]]) -> str:
    unsure = sum(line[5] != "Verified" for line in lines)
    head = (
        *("mode", "base", "weights", "data type in vLLM", "rollout", "outcome"),
        *("distance", "tolerance", "distance / tolerance"),
    )
    # A refused rollout ends the benchmark with an error.
    said = f"Of {len(lines)} rollouts without a fault, 0 were rejected, and {unsure} were"
    return f"{said} not Verified:\n\n{table(head, lines)}"


def _fault_table(lines: list[tuple[str, ...]]) -> str:
    detected = sum(line[1] == "yes" for line in lines)
    head = ("fault", "detected", "pod became ready", "distance", "tolerance")
    return (
        f"Of {len(lines)} faults in a bfloat16 build that vLLM runs in bfloat16, {detected} were "
        f"detected:\n\n"
        f"{table(head, lines)}"
    )
