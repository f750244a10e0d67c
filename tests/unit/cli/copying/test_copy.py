"""``ftj copy``: selection, the copy pod, transfer, and the command with a fake kubectl."""

import hashlib
import io
import json
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.docs.links import ROOT

from finetune_cli import __main__ as ftj
from finetune_cli.copying import copy, pod, transfer
from finetune_cli.copying.selection import select
from finetune_cli.errors import CommandFailed, Interrupted
from finetune_cli.offline import job_file
from finetune_trainer.checkpointing import manifest

FAKE = Path(__file__).parent / "fake_kubectl.py"
GOLDEN_SERVING = ROOT / "tests/unit/operator/manifests/golden/minimal-deployment.yaml"
PAGE = ROOT / "docs" / "how-to" / "copy-the-model.md"
FILES = {"model.safetensors": b"weights" * 50_000, "config.json": b"{}", "README.md": b"# card"}


def stage(name: str, outcome: str = "Completed", build: str | None = None) -> dict[str, Any]:
    return {"stage": name, "attempt": 1, "outcome": outcome, "build": build}


def job(*revisions: dict[str, Any], **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "support", "namespace": "team"},
        "status": {"revisions": [*revisions], **status},
    }


OLD = {
    "revision": "aaaa",
    "stages": [stage("train"), stage("merge", build="b1"), stage("merge", build="b2")],
    "artifacts": {"adapter": "sha256:a", "merged": "sha256:m"},
}
NEW = {
    "revision": "bbbb",
    "stages": [stage("train"), stage("merge", "Running", "b3")],
    "artifacts": {"adapter": "sha256:b"},
}


def test_revision_of_the_current_spec_is_selected_if_it_has_the_part() -> None:
    both = job(OLD, NEW, revision="bbbb", serving={"revision": "aaaa", "build": "b1"})
    adapter = select(both, "adapter", None)
    assert (adapter.revision, adapter.folder, adapter.digest) == (
        "bbbb",
        "/work/adapter",
        "sha256:b",
    )
    merged = select(both, "merged", None)
    assert (merged.revision, merged.folder) == ("aaaa", "/work/merged-b1")
    assert merged.digest is None, "the ledger has one digest for two builds"


def test_given_revision_is_selected() -> None:
    assert select(job(OLD, NEW, revision="bbbb"), "adapter", "aaaa").digest == "sha256:a"
    assert select(job(OLD, NEW, revision="bbbb"), "merged", "aaaa").folder == "/work/merged-b2"


def test_digest_of_a_single_build_is_compared() -> None:
    single = OLD | {"stages": [stage("train"), stage("merge", build="b1")]}
    assert select(job(single), "merged", None).digest == "sha256:m"


@pytest.mark.parametrize(
    ("found", "part", "revision", "words"),
    [
        (job(NEW), "merged", None, "has no merged model yet: .* copy the adapter"),
        (job(NEW), "merged", "bbbb", "revision bbbb of FineTuneJob support has no merged model"),
        (job(), "adapter", None, "no trained adapter yet: wait until the train stage"),
        (job(), "adapter", "cccc", "has no revision yet: wait until the train stage"),
        (job(OLD | {"unknown": 1}), "adapter", None, "have different versions: install"),
        (job(OLD), "adapter", "cccc", "has no revision cccc: set --revision to one of aaaa"),
    ],
)
def test_absent_model_is_explained(
    found: dict[str, Any], part: Any, revision: str | None, words: str
) -> None:
    with pytest.raises(CommandFailed, match=words):
        select(found, part, revision)


def running(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": spec, "status": {"phase": "Running"}}


def test_pod_uses_the_trainer_image_on_the_node_that_has_the_volume() -> None:
    template = {"containers": [{"image": "trainer:1"}], "imagePullSecrets": [{"name": "pull"}]}
    toleration = {"key": "pool", "operator": "Equal", "value": "gpu"}
    done = running("train", nodeName="node-1") | {"status": {"phase": "Succeeded"}}
    pods = [done, running("serve", nodeName="node-2", tolerations=[toleration, pod.GPU_TAINT])]
    place = pod.place([{"spec": {"template": {"spec": template}}}], pods)
    spec = pod.render("copy", "claim", place)["spec"]
    assert spec["containers"][0]["image"] == "trainer:1"
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    assert "node-2" in json.dumps(spec["affinity"])
    assert spec["tolerations"] == [pod.GPU_TAINT, toleration]


def test_pod_without_jobs_and_pods_uses_a_public_image_on_any_node() -> None:
    spec = pod.render("copy", "claim", pod.place([], []))["spec"]
    assert spec["containers"][0]["image"] == pod.DEFAULT_IMAGE
    assert not {"affinity", "imagePullSecrets"} & set(spec)


def test_pod_of_the_documentation_is_the_pod_of_the_command() -> None:
    text = PAGE.read_text(encoding="utf-8")
    block = text.split("```yaml\n")[1].split("```")[0]
    file = io.StringIO(block.replace("<name>-<revision>", "claim"))
    (documented,) = yaml.load_all(file, job_file.StrictLoader)
    assert documented == pod.render("copy-model", "claim", pod.Place())


def ignored(_: int) -> None:
    """Ignore the number of bytes."""


def archive(**files: bytes) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    out.seek(0)
    return out


def entries(**files: bytes) -> dict[str, manifest.Entry]:
    return {
        name: manifest.Entry(
            name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest()
        )
        for name, content in files.items()
    }


def test_damaged_file_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="model has the SHA-256"):
        transfer.receive(archive(model=b"other"), entries(model=b"right"), tmp_path, ignored)
    assert [*tmp_path.iterdir()] == []


def test_file_that_is_not_in_the_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="'extra', which is not in the manifest"):
        transfer.receive(archive(extra=b""), entries(model=b""), tmp_path, ignored)


def test_truncated_stream_is_an_interruption(tmp_path: Path) -> None:
    whole = archive(model=b"x" * 5000).read()
    for length in (0, 100, 600, 5000):
        with pytest.raises(Interrupted):
            transfer.receive(
                io.BytesIO(whole[:length]), entries(model=b"x" * 5000), tmp_path, ignored
            )
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", ["../model", "/model", "a/../b", "a//b", "manifest.json", "./a"])
def test_manifest_with_a_name_out_of_the_folder_is_refused(name: str) -> None:
    entry = manifest.Entry(name=name, size=0, sha256="")
    found = manifest.Manifest(kind="adapter", key="", files=(entry,), facts={})
    with pytest.raises(CommandFailed, match="invalid file name"):
        transfer.expected(found)


class Cluster:
    """The state of the fake kubectl."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.digest = self._publish()
        single = {
            "revision": "aaaa",
            "stages": [stage("train"), stage("merge", build="b1")],
            "artifacts": {"merged": self.digest},
        }
        claim = {"metadata": {"name": "support-aaaa"}}
        self.objects: dict[str, Any] = {
            "finetunejobs.finetune.dev/support": job(single, revision="aaaa"),
            "persistentvolumeclaims": {"items": [claim]},
            "jobs": {"items": []},
            "pods": {"items": []},
            "pod": {"status": {"phase": "Running"}},
        }
        self.write()

    def _publish(self) -> str:
        scratch = self.state / "volume" / "scratch"
        scratch.mkdir(parents=True)
        for name, content in FILES.items():
            (scratch / name).write_bytes(content)
        final = scratch.with_name("merged-b1")
        return manifest.publish(scratch, final, kind="merged", key="k", facts={}).digest

    def write(self) -> None:
        (self.state / "objects.json").write_text(json.dumps(self.objects))

    def calls(self, verb: str) -> list[list[str]]:
        lines = (self.state / "calls").read_text().splitlines()
        return [words for words in map(json.loads, lines) if verb in words]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    program = tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
    program.chmod(0o755)
    state = tmp_path / "state"
    state.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_KUBECTL", str(state))
    monkeypatch.setattr(copy, "POLL_SECONDS", 0.01)
    return Cluster(state)


def copied(into: Path, *options: str) -> int:
    return ftj.main(["copy", "support", str(into), "--context=test", *options])


def test_model_is_copied_and_the_pod_deleted(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into = tmp_path / "model"
    assert copied(into) == 0
    assert {each.name: each.read_bytes() for each in into.iterdir() if each.name in FILES} == FILES
    assert manifest.verify(into, kind="merged", key=None).digest == cluster.digest
    assert "3 files are in" in capsys.readouterr().err
    body = json.loads((cluster.state / "pod.json").read_text())
    (volume,) = body["spec"]["volumes"]
    assert volume["persistentVolumeClaim"] == {"claimName": "support-aaaa"}
    (deleted,) = cluster.calls("delete")
    assert body["metadata"]["name"] in deleted
    for words in cluster.calls("create") + cluster.calls("exec") + [deleted]:
        assert {"--namespace=team", "--context=test"} <= set(words)


def test_interrupted_copy_resumes_with_the_missing_files(cluster: Cluster, tmp_path: Path) -> None:
    (cluster.state / "cuts").write_text("3000 0")
    assert copied(tmp_path / "model") == 0
    archives = [
        words[words.index("--", words.index("tar")) + 1 :] for words in cluster.calls("tar")
    ]
    assert [len(names) for names in archives] == [3, 1, 1]
    assert archives[-1] == ["model.safetensors"]


def test_manifest_is_read_again_if_the_connection_was_lost(
    cluster: Cluster, tmp_path: Path
) -> None:
    (cluster.state / "lost").touch()
    assert copied(tmp_path / "model") == 0


def test_copy_that_makes_no_progress_fails_and_deletes_the_pod(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cluster.state / "cuts").write_text("0 0 0 0")
    assert copied(tmp_path / "model") == 1
    error = capsys.readouterr().err
    assert "interrupted 3 times in succession (" in error
    assert "run the command again" in error
    assert cluster.calls("delete")
    (cluster.state / "cuts").unlink()
    assert copied(tmp_path / "model") == 0


def test_content_that_the_ledger_does_not_know_is_refused(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = cluster.objects["finetunejobs.finetune.dev/support"]["status"]
    status["revisions"][0]["artifacts"]["merged"] = "sha256:other"
    cluster.write()
    assert copied(tmp_path / "model") == 1
    assert "so the volume was changed: do not use this model" in capsys.readouterr().err
    assert cluster.calls("delete")


def test_folder_with_another_model_is_refused(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("[]")
    assert copied(tmp_path / "model") == 1
    assert (
        "config.json belongs to another model: set DEST to another folder"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (
            {
                "phase": "Pending",
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/1 nodes are available",
                    }
                ],
            },
            "did not start within 0 s (Unschedulable 0/1 nodes are available)",
        ),
        (
            {
                "phase": "Pending",
                "containerStatuses": [
                    {"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}
                ],
            },
            "cannot start (ErrImagePull no such image): fix the cause, or set --image",
        ),
        ({"phase": "Failed", "message": "evicted"}, "cannot start (evicted)"),
    ],
)
def test_pod_that_does_not_start_is_explained_and_deleted(
    cluster: Cluster,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    status: dict[str, Any],
    words: str,
) -> None:
    cluster.objects["pod"] = {"status": status}
    cluster.write()
    assert copied(tmp_path / "model", "--timeout=0") == 1
    assert words in capsys.readouterr().err
    assert cluster.calls("delete")


def test_absent_job_is_one_line(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ftj.main(["copy", "other", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("ftj copy: kubectl get failed: Error from server (NotFound)")
    assert error.count("\n") == 1


SERVING = running(
    "serve",
    volumes=[{"name": "work", "persistentVolumeClaim": {"claimName": "support-aaaa"}}],
    containers=[
        {
            "name": "vllm",
            "volumeMounts": [{"name": "work", "mountPath": "/work", "subPath": "merged-b1"}],
        },
        {"name": "verify", "volumeMounts": [{"name": "work", "mountPath": "/work"}]},
    ],
)
LEAVING = SERVING | {"metadata": {"name": "serve", "deletionTimestamp": "2030-01-01T00:00:00Z"}}
WAITING = SERVING | {"status": {"phase": "Pending"}}


def terminating(cluster: Cluster, *pods: dict[str, Any]) -> None:
    claim = {"metadata": {"name": "support-aaaa", "deletionTimestamp": "2030-01-01T00:00:00Z"}}
    cluster.objects["persistentvolumeclaims"] = {"items": [claim]}
    cluster.objects["pods"] = {"items": [*pods]}
    cluster.write()


def test_terminating_volume_is_copied_from_a_pod_that_still_mounts_it(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    terminating(cluster, WAITING, SERVING)
    into = tmp_path / "model"
    assert copied(into) == 0
    assert {each.name: each.read_bytes() for each in into.iterdir() if each.name in FILES} == FILES
    assert not cluster.calls("create"), "no new pod can mount the volume"
    assert not cluster.calls("delete"), "the pod serves"
    for words in cluster.calls("exec"):
        assert words[words.index("exec") + 1 :][:2] == ["serve", "--container=verify"]
    assert "from the running pod serve" in capsys.readouterr().err


@pytest.mark.parametrize("pods", [(), (LEAVING,), (WAITING,)], ids=["none", "leaving", "waiting"])
def test_terminating_volume_that_no_pod_mounts_is_explained(
    cluster: Cluster,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    pods: tuple[dict[str, Any], ...],
) -> None:
    terminating(cluster, *pods)
    assert copied(tmp_path / "model") == 1
    error = capsys.readouterr().err
    assert "PersistentVolumeClaim support-aaaa is terminating, and no running pod mounts" in error
    assert not cluster.calls("create")


def test_serving_pod_of_the_operator_mounts_the_volume_as_the_command_expects() -> None:
    rendered = yaml.safe_load(GOLDEN_SERVING.read_text(encoding="utf-8"))
    body = rendered["spec"]["template"] | {"status": {"phase": "Running"}}
    body["metadata"] = {"name": "serve"}
    (claim,) = (
        each["persistentVolumeClaim"]["claimName"]
        for each in body["spec"]["volumes"]
        if "persistentVolumeClaim" in each
    )
    assert pod.running_source([body], claim) == pod.Source(pod="serve", container="verify")


def test_missing_volume_is_explained(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.objects["persistentvolumeclaims"] = {"items": []}
    cluster.write()
    assert copied(tmp_path / "model") == 1
    assert "the volume of revision aaaa does not exist" in capsys.readouterr().err


def test_missing_kubectl_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ftj.main(["copy", "support", str(tmp_path)]) == 1
    assert "kubectl is not on the PATH: install kubectl" in capsys.readouterr().err
