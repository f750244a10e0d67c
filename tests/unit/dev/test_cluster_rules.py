"""Firewall rules, mounts, images and job states of the local cluster, without a cluster."""

import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from cluster import cleanup, install, kubectl, paths
from cluster.artifacts import base_image, binaries, buildah, images
from cluster.demo import job
from cluster.errors import ClusterError, NotReady
from cluster.host import mounts

SAVED = """\
*filter
:INPUT ACCEPT [1:2]
:MINE - [0:0]
:KUBE-ROUTER-INPUT - [0:0]
:KUBE-POD-FW-ABC - [0:0]
-A INPUT -j MINE
-A INPUT -m comment --comment "kube-router netpol - X" -j KUBE-ROUTER-INPUT
-A MINE -m comment --comment "not for KUBE-ROUTER-INPUT" -j ACCEPT
-A KUBE-ROUTER-INPUT -s 10.0.0.1/32 -j KUBE-POD-FW-ABC
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -j DOCKER
COMMIT
"""


def test_chain_removal_deletes_only_chains_of_the_cluster_jumps_first() -> None:
    assert cleanup.chain_removal(SAVED) == (
        "*filter\n"
        '-D INPUT -m comment --comment "kube-router netpol - X" -j KUBE-ROUTER-INPUT\n'
        "-F KUBE-ROUTER-INPUT\n"
        "-F KUBE-POD-FW-ABC\n"
        "-X KUBE-ROUTER-INPUT\n"
        "-X KUBE-POD-FW-ABC\n"
        "COMMIT\n"
    )


def test_chain_removal_is_empty_without_chains_of_the_cluster() -> None:
    assert cleanup.chain_removal("*nat\n:DOCKER - [0:0]\n-A DOCKER -j RETURN\nCOMMIT\n") == ""


def test_mount_points_with_spaces_are_unescaped() -> None:
    table = (
        "36 35 98:0 / /plain rw - ext4 /dev/root rw\n"
        "37 36 0:40 / /with\\040a\\040blank/and\\134slash rw - tmpfs tmpfs rw\n"
    )
    assert mounts.mount_points(table) == [Path("/plain"), Path("/with a blank/and\\slash")]


@pytest.mark.parametrize(
    ("image", "repository", "tag", "digest"),
    [
        ("localhost:5000/x:1", "localhost:5000/x", "1", ""),
        ("registry.example/team/x:v1@sha256:ab", "registry.example/team/x", "v1", "sha256:ab"),
        ("x@sha256:ab", "x", "", "sha256:ab"),
    ],
)
def test_split_image_returns_repository_tag_and_digest(
    image: str, repository: str, tag: str, digest: str
) -> None:
    assert install.split_image(image) == {"repository": repository, "tag": tag, "digest": digest}


def test_split_image_rejects_a_reference_without_tag_and_digest() -> None:
    with pytest.raises(ClusterError, match="neither a tag nor a digest"):
        install.split_image("localhost:5000/x")


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "REPO", tmp_path)
    monkeypatch.setattr(base_image, "reference", lambda: "localhost:5000/base:1")
    for name in (
        "Dockerfile.trainer",
        "constraints/trainer.txt",
        "constraints/unsloth.txt",
        "constraints/uv.txt",
        "dev/supplychain/sbom.py",
        "crds/finetune_api/a.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "trainer/finetune_trainer").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    return tmp_path


def test_image_tag_changes_with_the_inputs_of_the_image(sources: Path) -> None:
    code = sources / "trainer/finetune_trainer/b.py"
    first = images.reference(images.TRAINER)
    packages = images.reference(images.PACKAGES)
    code.write_text("new")
    second = images.reference(images.TRAINER)
    assert second != first
    code.with_suffix(".pyc").write_bytes(b"compiled")
    assert images.reference(images.TRAINER) == second
    assert images.reference(images.PACKAGES) == packages
    (sources / "constraints/trainer.txt").write_text("torch==9")
    assert images.reference(images.PACKAGES) != packages


def test_only_versioned_images_have_the_version_label(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: list[str] = []

    def logged(command: list[str], *_: object, **__: object) -> None:
        options[:] = command

    monkeypatch.setattr(buildah, "logged", logged)
    monkeypatch.setattr(buildah, "exists", lambda _: False)
    monkeypatch.setattr(paths, "IMAGES", sources)
    label = "org.opencontainers.image.version=1.2.3"
    images._build(images.PACKAGES)
    assert label not in options
    images._build(images.TRAINER)
    assert options[options.index(label) - 1] == "--label"

    trainer, packages = map(images.reference, (images.TRAINER, images.PACKAGES))
    project = sources / "pyproject.toml"
    project.write_text('[project]\nversion = "1.2.3"\nreadme = "README.md"\n')
    assert images.reference(images.TRAINER) == trainer
    project.write_text('[project]\nversion = "1.2.4"\n')
    assert images.reference(images.TRAINER) != trainer
    assert images.reference(images.PACKAGES) == packages


def test_error_names_the_missing_input_of_an_image(sources: Path) -> None:
    (sources / "Dockerfile.trainer").unlink()
    with pytest.raises(ClusterError, match=r"build input Dockerfile\.trainer does not exist"):
        images.reference(images.TRAINER)


def test_output_names_are_the_file_names_of_go_build() -> None:
    names = {
        binaries._output_name(path): name
        for group in binaries.ALL
        for name, path in group.packages.items()
    }
    assert names.pop("server") == "etcd"
    assert all(given == name for given, name in names.items())


def status_of(generation: int = 1, **training: float) -> dict[str, Any]:
    ready = {
        "type": "Ready",
        "status": "False",
        "reason": "Training",
        "message": "training the adapter",
        "observedGeneration": 1,
    }
    return {
        "metadata": {"generation": generation},
        "status": {"conditions": [ready], "training": training},
    }


def test_describe_shows_bar_loss_and_remaining_time_of_a_training_job() -> None:
    line = job.describe(status_of(globalStep=24, maxSteps=96, loss=1.5, etaSeconds=72))
    assert "[######" + "." * 18 + "] 24/96 steps  loss 1.500  about 72 s left" in line


def test_describe_omits_unknown_training_progress() -> None:
    line = job.describe(status_of())
    assert line == "Training   training the adapter"


def test_condition_of_an_older_generation_is_ignored() -> None:
    assert job.condition(status_of(generation=2), "Ready").reason == "Pending"


@pytest.mark.parametrize(
    ("reason", "fix"),
    [
        ("UnsupportedVersion", "delete it with `kubectl -n ns delete ftj demo`"),
        ("DatasetInvalid", "find the cause with `kubectl -n ns describe ftj demo`"),
    ],
    ids=["job-of-an-earlier-version", "other-reason"],
)
def test_stalled_job_is_reported_with_a_fix(
    monkeypatch: pytest.MonkeyPatch, reason: str, fix: str
) -> None:
    ready = {"type": "Ready", "status": "False", "reason": reason, "message": "why"}
    stalled = {"type": "Stalled", "status": "True", "reason": reason, "message": "See Ready."}
    status = {"conditions": [{**each, "observedGeneration": 1} for each in (ready, stalled)]}
    found = {"metadata": {"generation": 1}, "status": status}
    monkeypatch.setattr(kubectl.Client, "get", lambda *_: found)
    client = kubectl.Client(kubectl_program="kubectl", helm_program="helm", kubeconfig=None)
    with pytest.raises(NotReady) as error:
        job.watch(client, "demo", "ns", timeout=60)
    assert str(error.value) == f"FineTuneJob ns/demo is stalled: {reason}: why"
    assert fix in error.value.hint


def test_waiting_for_a_job_ends_only_without_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(step=50.0)
    # A restart of the training repeats steps, which is no progress.
    steps = itertools.chain([1, 2, 3], itertools.cycle([2, 3]))
    ready = {"type": "Ready", "status": "False", "reason": "Training", "message": "step"}

    def get(*_: object) -> dict[str, Any]:
        status = {
            "conditions": [{**ready, "observedGeneration": 1}],
            "training": {"globalStep": next(steps)},
        }
        return {"metadata": {"generation": 1}, "status": status}

    monkeypatch.setattr(kubectl.Client, "get", get)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    client = kubectl.Client(kubectl_program="kubectl", helm_program="helm", kubeconfig=None)
    with pytest.raises(NotReady, match="has made no progress for 60 s: Training: step"):
        job.watch(client, "demo", "ns", timeout=60)
    # The third step was observed at 150 s; 200 s is within 60 s of it, and 250 s is not.
    assert next(clock) == 300
