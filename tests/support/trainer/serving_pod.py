"""A serving pod on this machine: the pinned vLLM for CPUs and the verifier, as processes.

Commands and environments are those of the Deployment that the operator creates with the chart
values of the local cluster. Only paths and ports are of this machine.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.support import real_vllm
from tests.support.ports import free_port
from tests.support.trainer.workshop import Workshop

from finetune_api.contracts.exitcodes import ExitCode
from finetune_api.contracts.ports import VERIFIER_METRICS
from finetune_operator.config import Settings
from finetune_operator.manifests import pod, serving, verifier, vllm
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision, resolve_target
from finetune_trainer.checkpointing import adapter_files, manifest

REPOSITORY = Path(__file__).resolve().parents[3]
VALUES = REPOSITORY / "dev/cluster/values.yaml"
IMAGES = {"trainer": "trainer:1", "serving": "vllm:1", "operator": "operator:1"}
METRIC = re.compile(r"^finetune_verify_(\w+)(?:{outcome=\"(\w+)\"})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Build:
    """A build of a trained job, and how it is served.

    dtype: of the merged weights; ``auto`` if the adapter is served.
    """

    workshop: Workshop
    target: TargetRevision
    dtype: str

    @property
    def folder(self) -> Path:
        """The folder of the served model."""
        merged = self.target.resolved.spec.serving.mode == "merged"
        return self.workshop.work / (f"merged-{self.target.build}" if merged else "base")


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What the verifier reports. outcome: ``Mismatch`` if it has rejected the model."""

    outcome: str
    message: str
    distance: float = float("nan")
    tolerance: float = float("nan")


class NotStarted(Exception):
    """A container ended before the model was verified; the text is the end of its output."""


def build(workshop: Workshop, *, computed: str = "float32", **spec: Any) -> Build:
    """Return a build of a trained job, merged if the spec says so.

    computed: the chart value ``serving.dtype``; spec: ``merge`` and ``serving``.
    """
    written = yaml.safe_load(VALUES.read_text())["serving"]
    config = Settings.model_validate({"images": IMAGES, "serving": written | {"dtype": computed}})
    parts = {part: workshop.job[part] for part in ("model", "dataset", "training")}
    target = resolve_target(_job(workshop, parts | spec), Ledger(), config)
    assert target.resolved.digest == workshop.job["digest"]
    resolved, dtype = target.resolved.spec, "auto"
    if resolved.serving.mode == "merged":
        merge = {"dtype": resolved.merge.dtype, "base": resolved.merge.base}
        ended = workshop.succeed("merge", build=target.build, **merge)
        dtype = ended.result["artifacts"]["mergedDtype"]
    return Build(workshop=workshop, target=target, dtype=dtype)


def verified(build: Build, scratch: Path, *, model: Path | None = None) -> Verified:
    """Run the containers of a build until the verifier decides. Raises NotStarted.

    scratch: for output and for caches, which later pods use again; model: the folder that vLLM
    loads, if it is not that of the build.
    """
    engine, checker = _containers(build)
    port = free_port()
    places = {
        vllm.MODEL: str(model or build.folder),
        vllm.ADAPTER: str(build.workshop.work / "adapter"),
        verifier.WORK: str(build.workshop.work),
        pod.SCRATCH: str(scratch),
        # The folder of the image with cached inspections of models.
        "/opt/vllm-cache": str(scratch / "vllm-cache"),
        str(vllm.PORT): str(free_port()),
        str(VERIFIER_METRICS): str(port),
    }
    termination = scratch / "termination"
    termination.unlink(missing_ok=True)
    assert real_vllm.PYTHON is not None
    with (
        _running(real_vllm.PYTHON, engine, places, scratch, PYTHONPATH="") as serving_process,
        _running(
            sys.executable,
            checker,
            places,
            scratch,
            PYTHONPATH=os.pathsep.join(str(REPOSITORY / name) for name in ("crds", "trainer")),
            FINETUNE_TERMINATION_LOG=str(termination),
        ) as checking_process,
    ):
        while (message := _get(port, "readyz")) is None:
            if checking_process.poll() == ExitCode.VERIFICATION_FAILED:
                result = json.loads(termination.read_text())
                return Verified(outcome="Mismatch", message=result["message"])
            for container, process in ((checker, checking_process), (engine, serving_process)):
                if process.poll() is not None:
                    text = _log(container, scratch).read_text(errors="replace")
                    raise NotStarted(f"{container['name']} ended with {process.poll()}: {text}")
            time.sleep(0.2)
        return _read(_get(port, "metrics") or "", message)


def _job(workshop: Workshop, spec: Any) -> dict[str, Any]:
    metadata = {"name": workshop.job["name"], "namespace": workshop.job["namespace"], "uid": "1"}
    return {"metadata": metadata, "spec": spec}


def _containers(build: Build) -> list[dict[str, Any]]:
    """Return the containers of vLLM and of the verifier."""
    work = build.workshop.work
    folders = {"served": build.folder, "adapter": work / "adapter", "reference": work / "reference"}
    deployment = serving.deployment(
        _job(build.workshop, {}),
        build.target,
        vllm.ServedModel(
            dtype=build.dtype, adapted_modules=adapter_files.adapted_modules(work / "adapter")
        ),
        verifier.Manifests(
            **{name: manifest.read(folder).sha256 for name, folder in folders.items()}
        ),
        replicas=1,
        attempt=1,
    )
    containers: list[dict[str, Any]] = deployment["spec"]["template"]["spec"]["containers"]
    return containers


@contextmanager
def _running(
    python: str,
    container: Mapping[str, Any],
    places: Mapping[str, str],
    scratch: Path,
    **environment: str,
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a container as a group of processes. places: of this machine, by those in the pod."""
    # Nothing but whole names of a path, and whole numbers.
    pattern = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, places))})(?![\w.-])")

    def here(text: str) -> str:
        return pattern.sub(lambda match: places[match[0]], text)

    words: list[str] = [*container["command"], *container["args"]]
    assert words.pop(0) == "python"
    written = {
        entry["name"]: here(entry["value"]) for entry in container["env"] if "value" in entry
    }
    with _log(container, scratch).open("wb") as output:
        process = subprocess.Popen(
            [python, *map(here, words)],
            env={**os.environ, **written, **environment},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _log(container: Mapping[str, Any], scratch: Path) -> Path:
    return scratch / f"{container['name']}.log"


def _get(port: int, route: str) -> str | None:
    """Return the answer of the verifier, None if it is not ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{route}", timeout=30) as response:
            return str(response.read().decode())
    except (urllib.error.URLError, OSError):
        return None


def _read(metrics: str, message: str) -> Verified:
    values = {(name, label): float(value) for name, label, value in METRIC.findall(metrics)}
    (outcome,) = (
        label for (name, label), value in values.items() if name == "outcome" and value == 1
    )
    return Verified(
        outcome=outcome,
        message=message,
        distance=values["distance", ""],
        tolerance=values["tolerance", ""],
    )
