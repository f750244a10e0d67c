"""A tenant with a pod on the claim of a job replaces what one stage publishes for the next."""

import asyncio
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster

from finetune_api.contracts import reference
from finetune_api.contracts.result import MANIFESTS
from finetune_api.contracts.stage_request import MergeStageRequest, TrainStageRequest
from finetune_operator.objects import naming
from finetune_trainer.checkpointing import manifest
from finetune_trainer.errors import ResumeRefused
from finetune_trainer.merging import base_digests, request
from finetune_trainer.training import base_check
from finetune_trainer.volume_layout import Layout
from finetune_verify import build, volume
from finetune_verify.errors import Mismatch

pytestmark = pytest.mark.finding(8, "a stage trusts the manifest next to the files")

KEY = "d" * 64
PATHS: Any = {"config": "/job.json", "work": "/work"}
JOB: Any = SimpleNamespace(digest=KEY)
WEIGHTS = b"the trained weights"
FACTS = {
    "baseCommit": "c",
    "adapter": "sha256:a",
    "base": "dequantized",
    "dtype": "float16",
    "plannedSteps": 3,
}


def publish(folder: Path, kind: str, weights: bytes = WEIGHTS, **facts: object) -> str:
    """Publish a folder with weights, replacing it; return the SHA-256 of its manifest."""
    scratch = folder.with_name(f".writing-{folder.name}")
    scratch.mkdir()
    (scratch / "model.safetensors").write_bytes(weights)
    (scratch / "config.json").write_text('{"torch_dtype": "float16"}')
    key = KEY if kind != "merged" else f"{KEY} b1"
    return manifest.publish(scratch, folder, kind=kind, key=key, facts={**FACTS, **facts}).sha256


class Volume:
    """A volume on which all stages have completed, and the digests in the ledger."""

    def __init__(self, work: Path) -> None:
        self.layout = Layout(work=work)
        kinds = {"base": "base", "dataset": "dataset", "adapter": "adapter", "merged-b1": "merged"}
        self.ledger = {name: publish(work / name, kind) for name, kind in kinds.items()}
        adapter = manifest.read(work / "adapter").digest
        for name in ("merged-b1", "reference"):
            kind = "merged" if name == "merged-b1" else reference.KIND
            self.ledger[name] = publish(work / name, kind, adapter=adapter)
        # Only the digest counts: the rows are not read.
        self.kinds = {**kinds, "reference": reference.KIND}

    def path(self, name: str) -> Path:
        return self.layout.work / name


def train(target: Volume) -> None:
    """What the train stage verifies before it publishes anything."""
    known = TrainStageRequest(
        **PATHS, base_manifest=target.ledger["base"], dataset_manifest=target.ledger["dataset"]
    )
    base, _ = base_check.prepared(target.layout, JOB, known)
    base_check.start(target.layout, base)()


def merge(target: Volume) -> None:
    """What the merge stage verifies before it publishes anything."""
    known = MergeStageRequest(
        **PATHS,
        base_manifest=target.ledger["base"],
        adapter_manifest=target.ledger["adapter"],
        build="b2",
        dtype="float16",
        base="original",
    )
    wanted = request.resolve(JOB, target.layout, known, key="k")
    base_digests.check(wanted, wanted.shards)


def serve(target: Volume, mode: build.Mode = "merged", *, referenced: bool = True) -> bool:
    """What the verifier checks before it compares scores; report whether there is a reference."""
    known = build.RecordedDigests(
        served=target.ledger["merged-b1" if mode == "merged" else "base"],
        adapter=target.ledger["adapter"],
        reference=target.ledger["reference"] if referenced else None,
    )
    found = build.find(target.layout.work, known, revision=KEY, build="b1", mode=mode, dtype="auto")
    asyncio.run(volume.check_digests(found.folders))
    return any(folder.path.name == reference.FOLDER for folder in found.folders)


def serve_adapter(target: Volume) -> bool:
    return serve(target, "adapter")


CONSUMERS: dict[str, tuple[Callable[[Volume], object], tuple[str, ...]]] = {
    "train": (train, ("base", "dataset")),
    "merge": (merge, ("base", "adapter")),
    "serve": (serve, ("merged-b1", "reference")),
    "serve the adapter": (serve_adapter, ("base", "adapter", "reference")),
}
"""The stages, and the folders whose files they use."""


def replace_weights(target: Volume, name: str) -> None:
    """With others of the same size; the manifest stays."""
    (target.path(name) / "model.safetensors").write_bytes(WEIGHTS[::-1])


def publish_other_weights(target: Volume, name: str) -> None:
    """With a correct manifest, as the tools of the project write it."""
    facts = manifest.read(target.path(name)).facts
    publish(target.path(name), target.kinds[name], b"weights of the tenant", **facts)


def change_a_fact(target: Volume, name: str) -> None:
    path = target.path(name) / manifest.FILE
    document = json.loads(path.read_text())
    document["facts"]["base"] = "original"
    path.write_text(json.dumps(document))


def rewrite_the_sums(target: Volume, name: str) -> None:
    """Of replaced weights, but not the digest in the manifest."""
    publish_other_weights(target, name)
    path = target.path(name) / manifest.FILE
    document = json.loads(path.read_text())
    document["digest"] = "sha256:" + "0" * 64
    path.write_text(json.dumps(document))


def add_a_file(target: Volume, name: str) -> None:
    """A library loads it by its name alone."""
    (target.path(name) / "adapter_config.json").write_text("{}")


def add_a_link(target: Volume, name: str) -> None:
    (target.path(name) / "model-00002.safetensors").symlink_to("/nowhere")


def remove(target: Volume, name: str) -> None:
    shutil.rmtree(target.path(name))


ATTACKS = (
    replace_weights,
    publish_other_weights,
    change_a_fact,
    rewrite_the_sums,
    add_a_file,
    add_a_link,
    remove,
)
CASES = [
    (consumer, name, attack)
    for consumer, (_, used) in CONSUMERS.items()
    for name in used
    for attack in ATTACKS
]


@pytest.mark.parametrize(("consumer", "name", "attack"), CASES)
def test_replaced_folder_is_detected(
    tmp_path: Path, consumer: str, name: str, attack: Callable[[Volume, str], None]
) -> None:
    target = Volume(tmp_path)
    consume, _ = CONSUMERS[consumer]
    consume(target)
    attack(target, name)
    with pytest.raises((ResumeRefused, Mismatch), match=f"{name}/"):
        consume(target)


WAITING_SECONDS = 10.0
"""Time after which a process is assumed to wait for the other end of a pipe."""


@contextmanager
def pipe(path: Path) -> Iterator[None]:
    """Replace a file by a named pipe; fail if the block waits for its other end."""
    path.unlink()
    os.mkfifo(path)
    waited = threading.Event()

    def unblock() -> None:
        waited.set()
        os.close(os.open(path, os.O_RDWR))

    timer = threading.Timer(WAITING_SECONDS, unblock)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    assert not waited.is_set(), f"it waits for the other end of {path.name}"


@pytest.mark.parametrize("file", ["model.safetensors", manifest.FILE])
@pytest.mark.parametrize(
    ("consumer", "name"),
    [(consumer, name) for consumer, (_, used) in CONSUMERS.items() for name in used],
)
def test_a_pipe_instead_of_a_file_is_detected(
    tmp_path: Path, consumer: str, name: str, file: str
) -> None:
    target = Volume(tmp_path)
    consume, _ = CONSUMERS[consumer]
    with pipe(target.path(name) / file), pytest.raises((ResumeRefused, Mismatch), match=f"{name}/"):
        consume(target)


@pytest.mark.parametrize("mode", ["merged", "adapter"])
def test_verification_is_skipped_only_if_the_ledger_has_no_reference(
    tmp_path: Path, mode: build.Mode
) -> None:
    target = Volume(tmp_path)
    assert serve(target, mode)
    assert not serve(target, mode, referenced=False), "a planted reference is not used"
    remove(target, "reference")
    with pytest.raises(Mismatch, match=r"reference/manifest\.json cannot be read"):
        serve(target, mode)


STAGES = ("prepare", "train", "merge")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("value", [None, "", "A" * 64, "0" * 63, "0" * 65, 7, ["0" * 64]])
def test_a_result_without_the_digests_of_its_folders_completes_no_stage(
    stage: str, value: object
) -> None:
    cluster = Cluster(spec={**Cluster().spec, "runPolicy": {"backoffLimit": 0}})
    for before in STAGES[: STAGES.index(stage)]:
        controllers.run(cluster, before)
    # The last one of the stage: the others are there.
    artifacts = {MANIFESTS[stage][-1]: value}
    controllers.run(cluster, stage, text=controllers.message(stage, artifacts=artifacts))
    cluster.settle()
    (attempt,) = (
        each for each in cluster.status["revisions"][0]["stages"] if each["stage"] == stage
    )
    assert (attempt["outcome"], attempt["reason"]) == ("Failed", "ResultMissing")
    assert "lacks the digests of its output folders" in attempt["message"]


def test_the_result_of_another_stage_completes_no_stage() -> None:
    cluster = Cluster(spec={**Cluster().spec, "runPolicy": {"backoffLimit": 0}})
    controllers.run(cluster, "prepare", text=controllers.message("merge"))
    cluster.settle()
    assert cluster.status["revisions"][0]["stages"][0]["reason"] == "ResultMissing"


def request_of(cluster: Cluster, stage: str) -> Any:
    """Return the request in the Job of a stage."""
    (found,) = (job for job in cluster.each("Job") if naming.label(job, naming.STAGE) == stage)
    return controllers.request_of(found)


def verifier_arguments(cluster: Cluster) -> list[str]:
    (deployment,) = cluster.each("Deployment")
    (found,) = (
        container["args"]
        for container in deployment["spec"]["template"]["spec"]["containers"]
        if "--work" in container["args"]
    )
    return list(found)


def value(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


@pytest.mark.parametrize("referenced", [True, False])
def test_the_operator_passes_the_digests_of_the_ledger(*, referenced: bool) -> None:
    cluster = Cluster()
    controllers.run(cluster, "prepare")
    digest = "e" * 64
    artifacts = {"referenceManifest": digest} if referenced else {}
    controllers.run(cluster, "train", text=controllers.message("train", artifacts=artifacts))
    controllers.run(cluster, "merge")
    controllers.serve(cluster)
    recorded = cluster.status["revisions"][0]["artifacts"]
    (merged,) = (
        each["mergedManifest"]
        for each in cluster.status["revisions"][0]["stages"]
        if each["stage"] == "merge"
    )
    train_, merge_ = (request_of(cluster, stage) for stage in ("train", "merge"))
    assert train_.base_manifest == merge_.base_manifest == recorded["baseManifest"]
    assert train_.dataset_manifest == recorded["datasetManifest"]
    assert merge_.adapter_manifest == recorded["adapterManifest"]
    verifier = verifier_arguments(cluster)
    assert value(verifier, "--served-manifest") == merged
    assert value(verifier, "--adapter-manifest") == recorded["adapterManifest"]
    assert ("--reference-manifest" in verifier) == referenced
    assert not referenced or value(verifier, "--reference-manifest") == digest


def test_a_training_without_a_reference_forgets_the_reference_before_it() -> None:
    cluster = Cluster()
    controllers.run(cluster, "prepare")
    reported = controllers.message("train", artifacts={"referenceManifest": "e" * 64})
    controllers.run(cluster, "train", text=reported)
    cluster.settle()
    controllers.delete(cluster, "PersistentVolumeClaim", f"demo-{cluster.status['revision']}")
    for _ in range(3):
        cluster.settle()
        for pod in list(cluster.each("Pod")):
            if controllers.alive(pod) and "deletionTimestamp" in pod["metadata"]:
                controllers.stop(cluster, pod)
        controllers.sync(cluster)
    controllers.run(cluster, "prepare")
    controllers.run(cluster, "train")
    cluster.settle()
    assert "referenceManifest" not in cluster.status["revisions"][0]["artifacts"]
