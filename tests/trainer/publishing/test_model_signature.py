"""``model.sig`` of a folder in a bucket, which the operator signs and the publish stage writes."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.model_hub import ModelHub
from tests.fakes.object_store import Store
from tests.fakes.registry import Registry
from tests.support.signing_keys import KEY, new_key
from tests.support.trainer.hub_target import ENVIRONMENT
from tests.support.trainer.publishing import Published, Volume, run
from tests.support.trainer.web import Certificate
from tests.trainer.publishing.test_attestation import bundle_about
from tests.trainer.publishing.test_oci import oci
from tests.trainer.publishing.test_s3 import KEYS, publish, target, written

from finetune_api.contracts.provenance import attestation
from finetune_api.contracts.provenance.attestation import (
    MANIFEST,
    MODEL_SIGNATURE_FILE,
    PROVENANCE_FILE,
)
from finetune_cli import __main__ as ftj
from finetune_operator.provenance import signed
from finetune_trainer.signatures import statements

__all__ = ["target"]


def digests_in(store: Store) -> dict[str, str]:
    return {
        key.split("/", 2)[2]: hashlib.sha256(data).hexdigest()
        for key, (data, _) in store.objects.items()
    }


class Folder:
    """A folder that was published, and the request to add the statements of the operator."""

    def __init__(self, volume: Volume, store: Store, target: dict[str, Any]) -> None:
        self.volume, self.store = volume, store
        done = publish(volume, target)
        assert done.error is None, done.failure
        self.files = done.files
        self.digest = str(done.only.digest)
        self.asked = target | {
            "attestation": bundle_about("s3://models/team", self.digest),
            "attested": self.digest,
            "model_signature": signed.model_signature(self.files, KEY),
        }

    def attest(self, **changes: Any) -> Published:
        key = {attestation.KEY_VARIABLE: KEY.public_key.decode()}
        return run(self.volume, self.asked | changes, environment=KEYS | key)

    @property
    def signature(self) -> str:
        """Key of the object with the signature."""
        return f"team/{self.digest.replace(':', '-')}/{MODEL_SIGNATURE_FILE}"


@pytest.fixture
def folder(volume: Volume, store: Store, target: dict[str, Any]) -> Folder:
    return Folder(volume, store, target)


def test_an_upload_reports_the_files_that_the_folder_has(
    volume: Volume, store: Store, target: dict[str, Any]
) -> None:
    done = publish(volume, target)
    assert done.files == digests_in(store)
    assert done.lists is not None
    assert done.lists.keys() == {done.only.manifest}
    # Also if an earlier attempt has sent everything.
    assert publish(volume, target).files == digests_in(store)


def test_two_targets_with_the_same_content_report_it_once(
    volume: Volume, store: Store, target: dict[str, Any]
) -> None:
    other = target | {"name": "other", "s3": target["s3"] | {"uri": "s3://models/other"}}
    keys = KEYS | {name.replace("MAIN", "OTHER"): value for name, value in KEYS.items()}
    done = run(volume, target, other, environment=keys)
    assert done.error is None
    assert len(done.lists or {}) == 1


def test_a_target_that_failed_reports_no_files(
    volume: Volume, store: Store, target: dict[str, Any]
) -> None:
    store.answers = [("PUT", 403, "AccessDenied")]
    assert publish(volume, target).lists is None


def test_an_image_and_a_hub_report_no_files(
    volume: Volume, server: Registry, hub: ModelHub, certificate: Certificate
) -> None:
    assert run(volume, oci(volume, server, certificate)).lists is None
    place = {"repo": "acme/support", "endpoint": hub.url, "ca": str(certificate.authority)}
    done = run(volume, volume.target(hugging_face=place), environment=ENVIRONMENT)
    assert done.error is None, done.failure
    assert done.lists is None


def test_the_signature_is_next_to_the_files_and_about_all_of_them(
    folder: Folder, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = dict(store.objects)
    done = folder.attest()
    assert done.error is None, done.failure
    assert done.only.attestation is not None
    added = store.objects.keys() - before.keys()
    assert {key.rpartition("/")[2] for key in added} == {PROVENANCE_FILE, MODEL_SIGNATURE_FILE}
    bundle = store.objects[folder.signature][0]
    key = statements.public_key(KEY.public_key)
    statement = statements.checked(bundle, [key], name=MODEL_SIGNATURE_FILE)
    assert attestation.files(statement) == folder.files
    provenance = json.loads(folder.asked["attestation"])
    assert json.loads(bundle)["verificationMaterial"] == provenance["verificationMaterial"]
    place = written(store, tmp_path / "objects")
    (tmp_path / "signing.pub").write_bytes(KEY.public_key)
    command = ["verify", str(place), "--key", str(tmp_path / "signing.pub")]
    assert ftj.main(command) == 0, capsys.readouterr().err
    (place / PROVENANCE_FILE).unlink()
    assert ftj.main(command) == 0, capsys.readouterr().err


def test_the_volume_gets_no_signature(folder: Folder) -> None:
    folder.attest()
    work = folder.volume.layout.work
    assert not [path for name in attestation.FILES for path in work.rglob(name)]


def test_the_signature_is_written_once(folder: Folder, store: Store) -> None:
    first = folder.attest().only
    before, store.written = dict(store.objects), []
    again = folder.attest().only
    assert (again.error, again.attestation, again.sent_bytes) == (None, first.attestation, 0)
    assert (store.objects, store.written) == (before, [])


def test_a_signature_whose_answer_was_lost_is_ours(folder: Folder, store: Store) -> None:
    store.lost = [PROVENANCE_FILE, MODEL_SIGNATURE_FILE]
    done = folder.attest()
    assert done.error is None, done.failure
    assert not store.lost


def test_a_killed_attempt_is_completed(folder: Folder, store: Store) -> None:
    assert folder.attest(model_signature=None).error is None
    assert folder.signature not in store.objects
    assert folder.attest().error is None
    assert folder.signature in store.objects


def test_a_signature_of_others_is_not_replaced(folder: Folder, store: Store) -> None:
    foreign: tuple[bytes, dict[str, str]] = (b"{}", {})
    store.objects[folder.signature] = foreign
    reason, message = folder.attest().failure
    assert reason == "TargetConflict"
    assert "delete this object" in message
    assert store.objects[folder.signature] == foreign


def test_a_signature_of_other_files_is_not_written(folder: Folder, store: Store) -> None:
    others = folder.files | {"config.json": "0" * 64}
    done = folder.attest(model_signature=signed.model_signature(others, KEY))
    assert done.failure[0] == "TargetRejected"
    assert "has signed other files" in done.failure[1]
    assert folder.signature not in store.objects


def test_a_changed_manifest_gets_no_signature(folder: Folder, store: Store) -> None:
    (key,) = (key for key in store.objects if key.endswith(f"/{MANIFEST}"))
    data, metadata = store.objects[key]
    store.objects[key] = (data.replace(b"hf://demo/tiny", b"hf://demo/evil"), metadata)
    assert folder.attest().failure[0] == "TargetRejected"
    assert folder.signature not in store.objects


def test_a_half_failed_attempt_does_not_block_the_next_one(folder: Folder, store: Store) -> None:
    """The facts may have changed since: the time, the verification, the version of the operator."""
    first = folder.attest(model_signature=None).only
    later = bundle_about("s3://models/team", folder.digest, finishedOn="2030-01-01T00:00:00Z")
    done = folder.attest(attestation=later)
    assert done.error is None, done.failure
    assert folder.signature in store.objects
    assert done.only.attestation == first.attestation


@pytest.mark.parametrize("foreign", ["key", "content", "kind", "text"])
def test_a_provenance_of_others_is_not_taken_for_an_earlier_one(
    folder: Folder, store: Store, foreign: str
) -> None:
    other = "sha256:" + "0" * 64
    bundle = bundle_about("s3://models/team", other if foreign == "content" else folder.digest)
    statement = attestation.statement(attestation.opened(bundle.encode()).payload)
    if foreign == "kind":
        bundle = json.dumps(signed.bundle(statement | {"predicateType": "https://scan"}, KEY))
    if foreign == "key":
        bundle = json.dumps(signed.bundle(statement, new_key()))
    stored = b"{}" if foreign == "text" else bundle.encode()
    key = folder.signature.replace(MODEL_SIGNATURE_FILE, PROVENANCE_FILE)
    store.objects[key] = (stored, {})
    later = bundle_about("s3://models/team", folder.digest, finishedOn="2030-01-01T00:00:00Z")
    reason, message = folder.attest(attestation=later).failure
    assert reason == "TargetConflict"
    assert "delete this object" in message
    assert store.objects[key] == (stored, {})
    assert folder.signature not in store.objects
