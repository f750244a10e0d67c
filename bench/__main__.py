"""``python bench [--write]``: run the quickstart once, measure it, print the figures.

--write puts them into docs/benchmarks.md as well.
"""

import argparse
import os
import platform
import re
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
# The interpreter puts this folder itself on the path; packages are found from these.
sys.path[0:1] = [str(REPOSITORY), str(REPOSITORY / "dev")]

import yaml  # noqa: E402
from tests.e2e import recorder  # noqa: E402
from tests.e2e.target import Cluster, local_kubectl, namespaces  # noqa: E402
from tests.e2e.tuning import Tuning  # noqa: E402

from bench import process, timeline  # noqa: E402
from bench.report import Run, markdown  # noqa: E402

EXAMPLE = REPOSITORY / "examples" / "quickstart.yaml"
DOCUMENT = REPOSITORY / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
NAMESPACE = "e2e-bench"
READY_SECONDS = 1200.0


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    options = parser.parse_args()
    print("==> make sure that cluster, images and operator are there", flush=True)
    kubectl = local_kubectl()
    with recorder.recording(kubectl) as record:
        cluster = Cluster(kubectl=kubectl, record=record)
        cluster.wait_for_operator()
        cluster.require_free_gpu()
        text = markdown(_measure(cluster))
    print(text)
    if options.write:
        before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        DOCUMENT.write_text(f"{before}{BEGIN}\n{text}{END}{after}", encoding="utf-8")


def _measure(cluster: Cluster) -> Run:
    print("==> start the operator anew", flush=True)
    started = process.start_seconds(cluster)
    job = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    with namespaces(cluster, NAMESPACE):
        tuning = Tuning(cluster=cluster, namespace=NAMESPACE, name=job["metadata"]["name"])
        before = process.cost(cluster)
        print("==> run the quickstart (a few minutes)", flush=True)
        applied = time.time()
        cluster.kubectl.run("apply", "-f", str(EXAMPLE), f"--namespace={NAMESPACE}")
        tuning.wait_until("Ready", seconds=READY_SECONDS)
        after = process.cost(cluster)
        return Run(
            timeline=timeline.read(tuning, applied=applied),
            steps=int(tuning.status()["training"]["maxSteps"]),
            start_seconds=started,
            requests=after.since(before),
            processor_seconds=after.processor_seconds - before.processor_seconds,
            resident_bytes=after.resident_bytes,
            machine=_machine(),
        )


def _machine() -> str:
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({model[1] if model else platform.machine()}), "
        f"{memory:.0f} GiB of memory, Linux {platform.release().split('-')[0]}, no GPU"
    )


main()
