"""Publishing to an S3 service: the objects, what is sent again, and what is refused."""

import hashlib
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.object_store import KEY, Store
from tests.support.trainer.publishing import BUILD, TEXT_OF_A_ROW, Published, Volume, run
from tests.support.trainer.web import Bucket, Certificate

from finetune_api.contracts.provenance.attestation import MANIFEST
from finetune_trainer.checkpointing import manifest
from finetune_trainer.errors import PublishFailed, Transient
from finetune_trainer.publishing.s3 import client
from finetune_trainer.publishing.s3 import push as s3

KEYS = {"PUBLISH_MAIN_AWS_ACCESS_KEY_ID": KEY, "PUBLISH_MAIN_AWS_SECRET_ACCESS_KEY": "a-secret-key"}
PART = 100_000
WRITTEN = ("config.json", "model-00001-of-00002.safetensors", MANIFEST)
"""Objects that are written in one request, in parts, and last."""


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PART", PART)
    monkeypatch.setattr(s3, "part_size", lambda size: PART)


@pytest.fixture
def target(volume: Volume, store: Store, certificate: Certificate) -> dict[str, Any]:
    place = {"uri": "s3://models/team", "endpoint": store.url, "ca": str(certificate.authority)}
    return volume.target("merged", s3=place)


def publish(
    volume: Volume, target: dict[str, Any], environment: dict[str, str] | None = None
) -> Published:
    return run(volume, target, environment=KEYS if environment is None else environment)


def written(store: Store, folder: Path) -> Path:
    """Write the objects below a folder, and return the folder of the only model."""
    for key, (data, _) in store.objects.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)
    (found,) = (folder / "team").iterdir()
    return found


def test_model_is_published_below_its_digest(
    volume: Volume, store: Store, target: dict[str, Any], tmp_path: Path
) -> None:
    target["annotations"] = {"org/licenses": "Apache-2.0 – ä", "long": "x" * 2000}
    done = publish(volume, target)
    assert done.error is None, done.failure
    folder = written(store, tmp_path / "objects")
    digest = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert folder.name == f"sha256-{digest}"
    assert done.only.reference == f"s3://models/team/{folder.name}/"
    assert done.only.digest == f"sha256:{digest}"
    assert manifest.verify(folder, kind="merged", key=None).facts["publishedFrom"] == volume.merged
    source = volume.layout.merged(BUILD) / "model-00001-of-00002.safetensors"
    assert (folder / source.name).read_bytes() == source.read_bytes()
    everything = b"".join(data for data, _ in store.objects.values())
    assert TEXT_OF_A_ROW.encode() not in everything
    for key, (data, metadata) in store.objects.items():
        assert metadata["sha256"] == hashlib.sha256(data).hexdigest(), key
    assert store.objects[f"team/{folder.name}/manifest.json"][1] == {
        "sha256": digest,
        "org.licenses": "Apache-2.0 %E2%80%93 %C3%A4",
    }
    assert store.keys == {KEY}
    assert done.only.sent_bytes == done.only.bytes == len(everything)


def test_adapter_is_published_with_the_tokenizer(
    volume: Volume, store: Store, target: dict[str, Any]
) -> None:
    done = publish(volume, target | {"what": "adapter", "content": volume.adapter})
    assert done.error is None, done.failure
    names = {key.rpartition("/")[2] for key in store.objects}
    assert {"adapter_model.safetensors", "tokenizer.json", "manifest.json"} <= names
    assert not {"rows.jsonl", "sample.safetensors"} & names


def test_second_run_sends_nothing(volume: Volume, store: Store, target: dict[str, Any]) -> None:
    first, sent = publish(volume, target).only, store.bytes
    second = publish(volume, target).only
    assert (second.error, second.reference, second.sent_bytes) == (None, first.reference, 0)
    assert store.bytes == sent


@pytest.mark.parametrize("lists_checksums", [True, False])
def test_unfinished_upload_is_resumed(
    volume: Volume, store: Store, target: dict[str, Any], lists_checksums: bool
) -> None:
    store.lists_checksums = lists_checksums
    # The fourth PUT is a part of the first large file; it fails, and the process ends.
    name = "model-00001-of-00002.safetensors"
    source = (volume.layout.merged(BUILD) / name).read_bytes()

    def fail() -> None:
        store.answers.append(("PUT", 403, "AccessDenied"))

    small = sum(
        path.stat().st_size
        for path in volume.layout.merged(BUILD).rglob("*")
        if path.is_file() and path.name < name and path.name != "manifest.json"
    )
    store.at = (small + PART + PART // 2, fail)
    assert publish(volume, target).failure[0] == "AccessDenied"
    finished = {part for key, part, _ in store.received if key.endswith(name)}
    assert finished
    assert publish(volume, target).error is None
    parts = [part for key, part, _ in store.received if key.endswith(name)]
    assert sorted(parts) == [1, 2, 3], "no part was sent twice"
    (data,) = (data for key, (data, _) in store.objects.items() if key.endswith(name))
    assert data == source


def test_parts_of_other_content_are_sent_again(
    volume: Volume, store: Store, target: dict[str, Any]
) -> None:
    """Anybody who may write to the bucket can leave an upload there."""
    assert publish(volume, target).error is None
    (key,) = (key for key in store.objects if key.endswith("model-00001-of-00002.safetensors"))
    data, metadata = store.objects.pop(key)
    from tests.fakes.object_store import Upload

    store.uploads["foreign"] = Upload(key, metadata, {1: bytes(PART), 2: data[PART : 2 * PART]})
    store.received.clear()
    assert publish(volume, target).error is None
    assert [part for _, part, _ in store.received] == [1, 3]
    assert store.objects[key][0] == data


def test_manifest_is_written_last(volume: Volume, store: Store, target: dict[str, Any]) -> None:
    publish(volume, target)
    names = [key.rpartition("/")[2] for key in store.written]
    assert names.index("manifest.json") == len(names) - 1


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "config.json"])
def test_object_with_other_content_is_not_replaced(
    volume: Volume, store: Store, target: dict[str, Any], name: str
) -> None:
    publish(volume, target)
    (key,) = (key for key in store.objects if key.endswith(f"/{name}"))
    for foreign in ((b"x", {}), (store.objects[key][0], {"sha256": "0" * 64})):
        store.objects[key] = foreign
        done = publish(volume, target)
        reason, message = done.failure
        assert (reason, type(done.error)) == ("TargetConflict", PublishFailed)
        assert f"s3://models/{key} exists with another content" in message
        assert store.objects[key] == foreign


def test_object_of_another_client_at_the_same_time(
    volume: Volume, store: Store, target: dict[str, Any]
) -> None:
    store.answers = [("PUT", 412, "PreconditionFailed")]
    assert publish(volume, target).failure[0] == "TargetConflict"


@pytest.mark.parametrize("name", WRITTEN)
def test_object_whose_answer_was_lost_is_ours(
    volume: Volume, store: Store, target: dict[str, Any], name: str
) -> None:
    """The client sends the request again, and the store refuses to replace the object."""
    store.lost = [name]
    done = publish(volume, target)
    assert done.error is None, done.failure
    assert not store.lost
    assert len(store.written) == len({*store.written})
    assert done.only.sent_bytes == done.only.bytes


@pytest.mark.parametrize("name", WRITTEN)
def test_object_that_another_client_writes_meanwhile_is_a_conflict(
    volume: Volume, store: Store, target: dict[str, Any], name: str
) -> None:
    publish(volume, target)
    (key,) = (key for key in store.objects if key.endswith(f"/{name}"))
    data, metadata = store.objects[key]
    for rival in ((data + b"x", metadata), (data, metadata | {"sha256": "0" * 64}), (data, {})):
        del store.objects[key]
        store.rivals = {key: rival}
        reason, message = publish(volume, target).failure
        assert reason == "TargetConflict"
        assert "another client wrote" in message
        assert store.objects[key] == rival


@pytest.mark.parametrize("at", [0, 50_000, 299_999])
def test_damaged_object_is_found(
    volume: Volume, store: Store, target: dict[str, Any], at: int
) -> None:
    publish(volume, target)
    (key,) = (key for key in store.objects if key.endswith("model-00001-of-00002.safetensors"))
    data, metadata = store.objects[key]
    store.objects[key] = (data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], metadata)
    reason, message = publish(volume, target).failure
    assert reason == "TargetRejected"
    assert f"s3://models/{key} has other bytes than were sent" in message


def test_damaged_manifest_is_found(volume: Volume, store: Store, target: dict[str, Any]) -> None:
    publish(volume, target)
    (key,) = (key for key in store.objects if key.endswith("/manifest.json"))
    data, metadata = store.objects[key]
    store.objects[key] = (data.replace(b"hf://demo/tiny", b"hf://demo/evil"), metadata)
    assert publish(volume, target).failure[0] == "TargetRejected"


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "config.json"])
def test_changed_file_on_the_volume_is_not_published(
    volume: Volume, store: Store, target: dict[str, Any], name: str
) -> None:
    path = volume.layout.merged(BUILD) / name
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    reason, message = publish(volume, target).failure
    assert reason == "ResumeRefused"
    assert f"{name} has changed since it was written" in message
    assert not any(key.endswith((name, "manifest.json")) for key in store.objects)
    # After the file is restored, the parts with its bytes are still there.
    path.write_bytes(data)
    assert publish(volume, target).error is None


@pytest.mark.parametrize(
    ("status", "code", "reason", "said"),
    [
        (401, "Unauthorized", "AccessDenied", "publish[main].s3.secretRef"),
        (403, "AccessDenied", "AccessDenied", "s3:PutObject"),
        (400, "ExpiredToken", "AccessDenied", "HTTP 400"),
        (507, "InsufficientStorage", "TargetRejected", "has no space left"),
        (403, "QuotaExceeded", "TargetRejected", "has no space left"),
        (501, "NotImplemented", "TargetRejected", "conditional writes"),
        (409, "ConditionalRequestConflict", "Transient", "next attempt"),
        (503, "SlowDown", "Transient", "next attempt"),
    ],
)
def test_refusals_are_named(
    volume: Volume,
    store: Store,
    target: dict[str, Any],
    status: int,
    code: str,
    reason: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Retries of botocore wait for seconds.
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    store.answers = [("PUT", status, code)] * 10
    done = publish(volume, target)
    found, message = done.failure
    assert found == reason
    assert said in message
    assert isinstance(done.error, Transient if reason == "Transient" else PublishFailed)
    assert not store.objects


def test_interrupted_read_back_resumes(
    volume: Volume, store: Store, target: dict[str, Any]
) -> None:
    # The first of them is the empty file.
    store.cuts = [0, 70_000, 1]
    done = publish(volume, target)
    assert done.error is None, done.failure
    assert not store.cuts
    asked = [place for _, place in store.asked if place is not None]
    assert len(asked) == 2
    (key,) = {key for key, place in store.asked if place is not None}
    first, second = (int(place.removeprefix("bytes=").rstrip("-")) for place in asked)
    assert (first, second) == (70_000, 70_001), key


def test_store_that_always_disconnects_is_transient(
    volume: Volume, store: Store, target: dict[str, Any]
) -> None:
    store.cuts = [0] * 1000
    done = publish(volume, target)
    assert done.failure[0] == "Transient"
    assert isinstance(done.error, Transient)
    assert "is unreachable" in done.failure[1]
    store.cuts = []
    again = publish(volume, target)
    assert (again.error, again.only.sent_bytes) == (None, 0)


def test_interrupted_part_is_sent_again(
    volume: Volume, store: Store, target: dict[str, Any]
) -> None:
    def disconnect() -> None:
        raise ConnectionResetError

    store.at = (PART // 2, disconnect)
    done = publish(volume, target)
    assert done.error is None, done.failure
    assert store.at is None
    assert max(Counter((key, part) for key, part, _ in store.received).values()) == 1


def test_slow_store_is_transient(
    volume: Volume, store: Store, target: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.config import Config

    given = client.options
    short = Config(read_timeout=0.2, retries={"max_attempts": 1})
    monkeypatch.setattr(
        client, "options", lambda *args, **named: given(*args, **named).merge(short)
    )
    store.delay = 0.6
    reason, message = publish(volume, target).failure
    assert reason == "Transient"
    assert "timeout" in message.lower()


def test_full_store_is_named(volume: Volume, store: Store, target: dict[str, Any]) -> None:
    store.capacity = 0
    assert "has no space left" in publish(volume, target).failure[1]


def test_missing_bucket_is_named(volume: Volume, store: Store, target: dict[str, Any]) -> None:
    target["s3"]["uri"] = "s3://elsewhere"
    reason, message = publish(volume, target).failure
    # A HEAD for an object in it has no text: the first upload fails.
    assert reason == "TargetRejected"
    assert "NoSuchBucket" in message


@pytest.mark.parametrize(
    "environment", [{}, {**KEYS, "PUBLISH_MAIN_AWS_ACCESS_KEY_ID": "STRANGER"}]
)
def test_wrong_credentials(
    volume: Volume, store: Store, target: dict[str, Any], environment: dict[str, str]
) -> None:
    done = publish(volume, target, environment)
    assert done.failure[0] == "AccessDenied"
    assert store.keys == ({"STRANGER"} if environment else {""})


def test_credentials_of_the_process_are_not_used(
    volume: Volume, store: Store, target: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those without the prefix of the target are for another purpose."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-key")
    assert publish(volume, target, {}).failure[0] == "AccessDenied"
    assert store.keys == {""}


def test_credential_with_a_line_break_is_not_quoted(
    volume: Volume, store: Store, target: dict[str, Any]
) -> None:
    environment = KEYS | {"PUBLISH_MAIN_AWS_SECRET_ACCESS_KEY": "first\nsecond"}
    reason, message = publish(volume, target, environment).failure
    assert reason == "AccessDenied"
    assert "second" not in message


def test_untrusted_certificate_is_named(
    volume: Volume, store: Store, target: dict[str, Any]
) -> None:
    target["s3"]["ca"] = None
    reason, message = publish(volume, target).failure
    assert reason == "InvalidSpec"
    assert "publish[main].s3.caConfigMapRef" in message


def test_unreachable_store_is_transient(
    volume: Volume, store: Store, target: dict[str, Any], unused_port: int
) -> None:
    target["s3"]["endpoint"] = f"https://127.0.0.1:{unused_port}"
    assert publish(volume, target).failure[0] == "Transient"


def test_redirect_is_not_followed(volume: Volume, store: Store, target: dict[str, Any]) -> None:
    store.answers = [("PUT", 307, "TemporaryRedirect")] * 10
    assert publish(volume, target).failure[0] == "TargetRejected"


@pytest.mark.parametrize(
    ("size", "part"), [(1, 16 << 20), (160 << 30, 17 << 20), (1 << 40, 105 << 20)]
)
def test_size_of_parts(size: int, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert s3.part_size(size) == part
    assert -(-size // part) <= 10_000


def test_model_in_another_implementation_of_s3(
    volume: Volume,
    certificate: Certificate,
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Moto, read by boto3."""
    monkeypatch.setattr(s3, "PART", 5 << 20)
    monkeypatch.setattr(s3, "part_size", lambda size: 5 << 20)
    place = {
        "uri": f"s3://{bucket.name}/team",
        "endpoint": bucket.url,
        "region": "eu-central-1",
        "ca": str(certificate.authority),
    }
    environment = {f"PUBLISH_MAIN_{name}": value for name, value in bucket.allowed.items()}
    done = run(volume, volume.target("merged", s3=place), environment=environment)
    assert done.error is None, done.failure
    found = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix="team/")["Contents"]
    assert len(found) > 10
    (key,) = (each["Key"] for each in found if each["Key"].endswith("/manifest.json"))
    text = bucket.client.get_object(Bucket=bucket.name, Key=key)["Body"].read()
    assert f"sha256:{hashlib.sha256(text).hexdigest()}" == done.only.digest
    for entry in json.loads(text)["files"]:
        name = f"{key.rpartition('/')[0]}/{entry['name']}"
        data = bucket.client.get_object(Bucket=bucket.name, Key=name)["Body"].read()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]
    forbidden = {f"PUBLISH_MAIN_{name}": value for name, value in bucket.forbidden.items()}
    refused = run(volume, volume.target("adapter", s3=place), environment=forbidden)
    assert refused.failure[0] == "AccessDenied"
