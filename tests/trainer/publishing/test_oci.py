"""Publishing to an OCI registry: the image, its names, what is sent again, and what is refused."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.registry import Registry, digest_of
from tests.support.trainer.publishing import BUILD, TEXT_OF_A_ROW, Volume, run
from tests.support.trainer.web import Certificate

from finetune_trainer.checkpointing import manifest
from finetune_trainer.errors import PublishFailed, Transient
from finetune_trainer.publishing.oci import blobs


def oci(
    found: Volume, server: Registry, certificate: Certificate, what: str = "adapter", **fields: Any
) -> dict[str, Any]:
    target = {"repository": f"{server.host}/team/tiny", "ca": str(certificate.authority)}
    return found.target(what, oci=target, **fields)


def unpack(server: Registry, name: str, into: Path) -> Path:
    """Unpack an image as a container runtime does; return the folder of the model."""
    document = json.loads(server.manifests[name])
    config = json.loads(server.blobs[document["config"]["digest"]])
    layers = [server.blobs[layer["digest"]] for layer in document["layers"]]
    assert config["rootfs"]["diff_ids"] == [digest_of(layer) for layer in layers]
    for layer in layers:
        with tarfile.open(fileobj=io.BytesIO(layer), mode="r:") as archive:
            archive.extractall(into, filter="data")
    return into / "models"


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_adapter_is_published_with_the_tokenizer_of_its_base(
    volume: Volume, server: Registry, certificate: Certificate, tmp_path: Path
) -> None:
    annotations = {"org.opencontainers.image.licenses": "Apache-2.0"}
    target = oci(volume, server, certificate, annotations=annotations, tags=("latest",))
    done = run(volume, target)
    assert done.error is None
    digest = digest_of(server.manifests["tiny-1-adapter"])
    assert done.only.digest == digest
    assert done.only.reference == f"{server.host}/team/tiny@{digest}"
    assert server.manifests["latest"] == server.manifests[digest]
    document = json.loads(server.manifests[digest])
    assert document["annotations"] == annotations
    assert document["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    folder = unpack(server, digest, tmp_path / "image")
    found = files_below(folder)
    assert set(found) == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "loss.png",
        "loss_history.json",
        "manifest.json",
        "quantization.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert found["tokenizer.json"] == (volume.layout.base / "tokenizer.json").read_bytes()
    name = "adapter_model.safetensors"
    assert found[name] == (volume.layout.adapter / name).read_bytes()
    # The published manifest proves the published folder, and names that of the volume.
    proved = manifest.verify(folder, kind="adapter", key=volume.job.digest)
    assert proved.facts["publishedFrom"] == volume.adapter
    assert done.only.bytes == sum(map(len, found.values()))
    assert done.progress.get("progress_ratio") == 1
    assert done.progress.get("upload_bytes") == done.progress.get("upload_size_bytes")


def test_merged_model_is_published_byte_by_byte(
    volume: Volume, server: Registry, certificate: Certificate, tmp_path: Path
) -> None:
    done = run(volume, oci(volume, server, certificate, "merged"))
    assert done.error is None, done.failure
    folder = unpack(server, "tiny-1-merged", tmp_path / "image")
    found, source = files_below(folder), files_below(volume.layout.merged(BUILD))
    assert found.pop("manifest.json") != source.pop("manifest.json")
    del source["reference/sample.safetensors"]
    assert found == source
    manifest.verify(folder, kind="merged", key=None)


def test_no_text_of_a_row_and_no_reference_is_published(
    volume: Volume, server: Registry, certificate: Certificate
) -> None:
    for what in ("adapter", "merged"):
        assert run(volume, oci(volume, server, certificate, what)).error is None
    everything = b"".join([*server.blobs.values(), *server.manifests.values()])
    assert TEXT_OF_A_ROW.encode() not in everything
    assert b"reference/" not in everything


def test_layers_are_reproducible(
    volume: Volume, server: Registry, certificate: Certificate, tmp_path: Path
) -> None:
    first = run(volume, oci(volume, server, certificate)).only.digest
    for path in volume.layout.adapter.iterdir():
        path.touch()
    server.reset()
    assert run(volume, oci(volume, server, certificate)).only.digest == first
    for layer in json.loads(server.manifests["tiny-1-adapter"])["layers"]:
        # A reader gets the file alone with a range: its bytes begin after two headers.
        name = layer["annotations"]["org.opencontainers.image.title"]
        data = server.blobs[layer["digest"]]
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            member = archive.getmember(f"models/{name}")
        assert (member.offset_data, member.mode, member.mtime, member.uid) == (1024, 0o644, 0, 0)


def test_second_run_sends_nothing_and_reads_everything_back(
    volume: Volume, server: Registry, certificate: Certificate
) -> None:
    target = oci(volume, server, certificate, "merged", tags=("latest",))
    first = run(volume, target).only
    server.requests.clear()
    second = run(volume, target).only
    assert first.sent_bytes
    assert second.model_dump(exclude={"sent_bytes"}) == first.model_dump(exclude={"sent_bytes"})
    assert second.sent_bytes == 0
    assert {method for method, _, _ in server.requests} == {"GET", "HEAD"}
    got = {path.rpartition("/")[2] for method, path, _ in server.requests if method == "GET"}
    assert set(server.blobs) <= got


def test_manifest_is_sent_after_all_blobs(
    volume: Volume, server: Registry, certificate: Certificate
) -> None:
    run(volume, oci(volume, server, certificate, "merged", tags=("latest",)))
    puts = [path for method, path, _ in server.requests if method == "PUT"]
    assert ["manifests" in path for path in puts[-2:]] == [True, True]
    assert not any("manifests" in path for path in puts[:-2])
    # The tag moves when the image has been read back.
    last = [path for method, path, _ in server.requests if "/blobs/sha256" in path][-1]
    reads = [path for _, path, _ in server.requests]
    assert max(at for at, path in enumerate(reads) if path == last) < reads.index(puts[-1])


def test_deleted_blob_is_sent_again(
    volume: Volume, server: Registry, certificate: Certificate
) -> None:
    target = oci(volume, server, certificate)
    run(volume, target)
    lost = max(server.blobs, key=lambda digest: len(server.blobs[digest]))
    data = server.blobs.pop(lost)
    done = run(volume, target)
    assert done.error is None
    assert (done.only.sent_bytes, server.blobs[lost]) == (len(data), data)


def test_immutable_name_is_never_changed(
    volume: Volume, server: Registry, certificate: Certificate
) -> None:
    foreign = server.tag("tiny-1-adapter", b'{"config": {}}')
    target = oci(volume, server, certificate, overwrite=True, own=(foreign,))
    done = run(volume, target)
    reason, message = done.failure
    assert (reason, type(done.error)) == ("TargetConflict", PublishFailed)
    assert f"tiny-1-adapter exists with the digest {foreign}" in message
    assert server.manifests["tiny-1-adapter"] == b'{"config": {}}'
    assert not server.blobs, "nothing is sent if the name is taken"


@pytest.mark.parametrize(
    ("own", "overwrite", "moves"),
    [("own", False, True), (None, True, True), (None, False, False), ("other", False, False)],
)
def test_tag_moves_only_from_content_of_this_job(
    volume: Volume,
    server: Registry,
    certificate: Certificate,
    own: str | None,
    overwrite: bool,
    moves: bool,
) -> None:
    before = server.tag("latest", b'{"before": 1}')
    known = {"own": (before,), "other": (digest_of(b"x"),), None: ()}[own]
    target = oci(
        volume,
        server,
        certificate,
        tags=("latest", "new"),
        own=known,
        overwrite=overwrite,
    )
    done = run(volume, target)
    image = server.manifests["tiny-1-adapter"]
    assert server.manifests["new"] == image, "the other tags move"
    assert done.only.digest == digest_of(image), "the content is published in any case"
    assert server.manifests["latest"] == (image if moves else b'{"before": 1}')
    if not moves:
        reason, message = done.failure
        assert reason == "TargetConflict"
        assert f"latest ({before})" in message
        assert "publish[main].overwrite" in message


def test_targets_are_independent(
    volume: Volume, server: Registry, other: Registry, certificate: Certificate
) -> None:
    other.refused = {"POST"}
    done = run(
        volume,
        oci(volume, other, certificate, name="closed"),
        oci(volume, server, certificate, name="open"),
    )
    closed, opened = done.targets
    assert (closed.name, closed.digest) == ("closed", None)
    assert closed.error is not None
    assert closed.error.reason == "AccessDenied"
    assert (opened.name, opened.error) == ("open", None)
    assert isinstance(done.error, PublishFailed)
    assert str(done.error).startswith("1 of 2 targets are not complete: closed: AccessDenied")


def test_changed_file_on_the_volume_is_not_published(
    volume: Volume, server: Registry, certificate: Certificate
) -> None:
    path = volume.layout.merged(BUILD) / "model-00002-of-00002.safetensors"
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    done = run(volume, oci(volume, server, certificate, "merged"))
    reason, message = done.failure
    assert reason == "ResumeRefused"
    assert "model-00002-of-00002.safetensors has changed since it was written" in message
    assert not server.manifests
    assert not any(hashlib.sha256(data).digest() in blob for blob in server.blobs.values())


@pytest.mark.parametrize("what", ["adapter", "merged"])
def test_folder_that_the_ledger_does_not_name_is_not_published(
    volume: Volume, server: Registry, certificate: Certificate, what: str
) -> None:
    for content in ("", "0" * 64):
        done = run(volume, oci(volume, server, certificate, what, content=content))
        reason, message = done.failure
        assert reason == "ResumeRefused"
        assert "not the folder that was published" in message
    assert not server.requests


def test_link_on_the_volume_is_not_followed(
    volume: Volume, server: Registry, certificate: Certificate, tmp_path: Path
) -> None:
    path = volume.layout.adapter / "adapter_model.safetensors"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    reason, message = run(volume, oci(volume, server, certificate)).failure
    assert reason == "ResumeRefused"
    assert "adapter_model.safetensors" in message


def test_damaged_blob_of_the_registry_is_found(
    volume: Volume, server: Registry, certificate: Certificate
) -> None:
    target = oci(volume, server, certificate, tags=("latest",))
    run(volume, oci(volume, server, certificate))
    damaged = max(server.blobs, key=lambda digest: len(server.blobs[digest]))
    data = bytearray(server.blobs[damaged])
    data[-2000] ^= 1
    server.blobs[damaged] = bytes(data)
    reason, message = run(volume, target).failure
    assert reason == "TargetRejected"
    assert f"other bytes for the blob {damaged}" in message
    assert "latest" not in server.manifests


def test_longer_blob_of_the_registry_is_found(
    volume: Volume, server: Registry, certificate: Certificate
) -> None:
    run(volume, oci(volume, server, certificate))
    damaged = max(server.blobs, key=lambda digest: len(server.blobs[digest]))
    server.blobs[damaged] += b"x"
    assert run(volume, oci(volume, server, certificate)).failure[0] == "TargetRejected"


@pytest.mark.parametrize("forgets", [True, False])
def test_interrupted_upload_continues(
    volume: Volume,
    server: Registry,
    certificate: Certificate,
    forgets: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blobs, "PART", 100_000)
    server.cuts, server.forgets = [10**9, 70_000, 1], forgets
    done = run(volume, oci(volume, server, certificate, "merged"))
    assert done.error is None, done.failure
    assert len(server.finished) == len(set(server.finished))
    stored = sum(map(len, server.blobs.values()))
    assert server.received > stored if forgets else server.received < stored + 70_000


def test_lost_answer_to_the_end_of_an_upload_sends_nothing_again(
    volume: Volume, server: Registry, certificate: Certificate
) -> None:
    server.lost = 2
    done = run(volume, oci(volume, server, certificate))
    assert done.error is None, done.failure
    assert server.received == sum(map(len, server.blobs.values()))


def test_registry_that_always_disconnects_is_transient(
    volume: Volume, server: Registry, certificate: Certificate
) -> None:
    server.cuts = [10] * 1000
    done = run(volume, oci(volume, server, certificate))
    assert done.failure[0] == "Transient"
    assert isinstance(done.error, Transient)
    assert "unreachable or fails" in done.failure[1]
    assert len(server.cuts) > 900


def test_registry_that_accepts_no_parts_gets_blobs_in_one_request(
    volume: Volume,
    server: Registry,
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blobs, "PART", 100_000)
    server.one_request = True
    done = run(volume, oci(volume, server, certificate, "merged"))
    assert done.error is None, done.failure


@pytest.mark.parametrize("status", [429, 500, 502, 503])
@pytest.mark.parametrize("method", ["HEAD", "GET", "POST", "PATCH", "PUT"])
def test_passing_errors_are_retried(
    volume: Volume, server: Registry, certificate: Certificate, method: str, status: int
) -> None:
    server.answers = [(method, status, {"Retry-After": "100000000"})] * 2
    done = run(volume, oci(volume, server, certificate))
    assert done.error is None, done.failure
    assert not server.answers


def test_full_registry_is_named(volume: Volume, server: Registry, certificate: Certificate) -> None:
    server.capacity = 100_000
    done = run(volume, oci(volume, server, certificate))
    reason, message = done.failure
    assert (reason, type(done.error)) == ("TargetRejected", PublishFailed)
    assert "has no space left" in message
    assert not server.manifests


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
def test_denied_upload_for_lack_of_space_is_named(
    volume: Volume, server: Registry, certificate: Certificate, method: str
) -> None:
    server.answers = [(method, 507, {})] * 100
    done = run(volume, oci(volume, server, certificate))
    reason, message = done.failure
    assert (reason, type(done.error)) == ("TargetRejected", PublishFailed)
    assert "has no space left" in message
    assert len(server.answers) == 99, "another attempt of the process would meet the same"
    assert not server.manifests
    server.answers = []
    assert run(volume, oci(volume, server, certificate)).error is None


def test_slow_registry_is_transient(
    volume: Volume,
    server: Registry,
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import httpx

    from finetune_trainer.sources.oci import registry

    monkeypatch.setattr(registry, "TIMEOUT", httpx.Timeout(0.2))
    server.delay = 0.6
    reason, message = run(volume, oci(volume, server, certificate)).failure
    assert reason == "Transient"
    assert "ReadTimeout" in message


def test_missing_repository_is_named(
    volume: Volume, server: Registry, certificate: Certificate
) -> None:
    server.answers = [("POST", 404, {})]
    reason, message = run(volume, oci(volume, server, certificate)).failure
    assert reason == "TargetRejected"
    assert "check that the repository exists" in message


def test_unreachable_registry_is_transient(
    volume: Volume, server: Registry, certificate: Certificate, unused_port: int
) -> None:
    target = oci(volume, server, certificate)
    target["oci"]["repository"] = f"127.0.0.1:{unused_port}/a/b"
    assert run(volume, target).failure[0] == "Transient"


def test_untrusted_certificate_is_named(
    volume: Volume, server: Registry, certificate: Certificate
) -> None:
    target = oci(volume, server, certificate)
    target["oci"]["ca"] = None
    reason, message = run(volume, target).failure
    assert reason == "InvalidSpec"
    assert "caConfigMapRef" in message


def test_endless_manifest_is_refused(
    volume: Volume, server: Registry, certificate: Certificate
) -> None:
    server.tag("tiny-1-adapter", bytes(5 << 20))
    reason, message = run(volume, oci(volume, server, certificate)).failure
    assert reason == "TargetRejected"
    assert "more than 4,194,304 bytes" in message
