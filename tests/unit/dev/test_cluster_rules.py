"""Finding what is the cluster's among what is not: firewall rules, mounts, images, answers."""

from pathlib import Path
from typing import Any

import pytest

from cluster import base_image, binaries, buildah, cleanup, images, install, job, mounts, paths
from cluster.errors import ClusterError

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


def test_only_our_chains_are_removed_jumps_first() -> None:
    assert cleanup.chain_removal(SAVED) == (
        "*filter\n"
        '-D INPUT -m comment --comment "kube-router netpol - X" -j KUBE-ROUTER-INPUT\n'
        "-F KUBE-ROUTER-INPUT\n"
        "-F KUBE-POD-FW-ABC\n"
        "-X KUBE-ROUTER-INPUT\n"
        "-X KUBE-POD-FW-ABC\n"
        "COMMIT\n"
    )


def test_a_firewall_without_us_is_left_alone() -> None:
    assert cleanup.chain_removal("*nat\n:DOCKER - [0:0]\n-A DOCKER -j RETURN\nCOMMIT\n") == ""


def test_mount_points_with_blanks_are_read() -> None:
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
def test_image_references_are_split(image: str, repository: str, tag: str, digest: str) -> None:
    assert install.split_image(image) == {"repository": repository, "tag": tag, "digest": digest}


def test_an_image_without_a_tag_is_refused() -> None:
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
        "crds/finetune_api/a.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "trainer/finetune_trainer").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    return tmp_path


def test_an_image_is_named_by_its_inputs(sources: Path) -> None:
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


def test_the_version_is_a_label_of_what_is_ours_alone(
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


def test_a_missing_input_is_named(sources: Path) -> None:
    (sources / "Dockerfile.trainer").unlink()
    with pytest.raises(ClusterError, match=r"Dockerfile\.trainer is not in the repository"):
        images.reference(images.TRAINER)


def test_programs_are_found_under_the_names_that_go_gives() -> None:
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


def test_training_is_shown_with_bar_loss_and_time_left() -> None:
    line = job.describe(status_of(globalStep=24, maxSteps=96, loss=1.5, etaSeconds=72))
    assert "[######" + "." * 18 + "] 24/96 steps  loss 1.500  about 72 s left" in line


def test_what_is_not_known_yet_is_not_shown() -> None:
    line = job.describe(status_of())
    assert line == "Training   training the adapter"


def test_a_condition_of_an_older_spec_does_not_count() -> None:
    assert job.condition(status_of(generation=2), "Ready").reason == "Pending"
