"""Adding the operator's signed statement to what an earlier attempt has published."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.object_store import Store
from tests.fakes.registry import Registry, digest_of
from tests.support.signing_keys import KEY, new_key
from tests.support.trainer.publishing import Published, Volume, run
from tests.support.trainer.web import Certificate
from tests.trainer.publishing.conftest import USER
from tests.trainer.publishing.test_oci import oci
from tests.trainer.publishing.test_s3 import KEYS, publish, target, written

from finetune_api.contracts.provenance import attestation
from finetune_cli import __main__ as ftj
from finetune_operator.provenance import signed

__all__ = ["target"]
STATEMENT_OF_OTHERS = {
    "_type": attestation.STATEMENT_TYPE,
    "subject": [{"name": "image", "digest": {"sha256": "a" * 64}}],
    "predicateType": attestation.PROVENANCE_TYPE,
    "predicate": {"by": "a tenant"},
}


def bundle_about(name: str, digest: str, **predicate: Any) -> str:
    hexadecimal = digest.removeprefix("sha256:")
    subjects = [(name, hexadecimal), ("manifest.json", hexadecimal)]
    statement = {
        "_type": attestation.STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": each}} for name, each in subjects],
        "predicateType": attestation.PROVENANCE_TYPE,
        "predicate": predicate,
    }
    return json.dumps(signed.bundle(statement, KEY))


def payload_digest(bundle: str) -> str:
    return hashlib.sha256(attestation.opened(bundle.encode()).payload).hexdigest()


class Attested:
    """An image that was published, and the statement about it."""

    def __init__(self, volume: Volume, server: Registry, certificate: Certificate) -> None:
        self.volume, self.server = volume, server
        self.target = oci(volume, server, certificate)
        self.digest = str(run(volume, self.target).only.digest)
        self.tag = self.digest.replace(":", "-")
        self.bundle = bundle_about("image", self.digest)

    def attest(self, bundle: str | None = None) -> Published:
        added = {"attestation": bundle or self.bundle, "attested": self.digest}
        return run(self.volume, self.target | added)

    def layers(self) -> list[dict[str, Any]]:
        layers: list[dict[str, Any]] = json.loads(self.server.manifests[f"{self.tag}.att"])[
            "layers"
        ]
        return layers


@pytest.fixture
def attested(volume: Volume, server: Registry, certificate: Certificate) -> Attested:
    return Attested(volume, server, certificate)


def test_an_upload_reports_the_digest_of_its_manifest(
    volume: Volume, server: Registry, certificate: Certificate
) -> None:
    only = run(volume, oci(volume, server, certificate)).only
    assert only.manifest is not None
    assert any(
        only.manifest == hashlib.sha256(_file(data)).hexdigest() for data in server.blobs.values()
    )
    assert only.attestation is None


def _file(layer: bytes) -> bytes:
    """Return the content of a layer up to its padding, if it is text."""
    return layer[1024:].rstrip(b"\0")


@pytest.mark.parametrize("referrers", [False, True])
def test_the_statement_is_a_tag_and_a_referrer(attested: Attested, referrers: bool) -> None:
    server = attested.server
    server.referrers = referrers
    done = attested.attest()
    assert done.error is None, done.failure
    assert done.only.digest == attested.digest
    assert done.only.attestation == payload_digest(attested.bundle)
    (layer,) = attested.layers()
    assert json.loads(server.blobs[layer["digest"]]) == json.loads(attested.bundle)["dsseEnvelope"]
    assert layer["mediaType"] == "application/vnd.dsse.envelope.v1+json"
    assert layer["annotations"]["predicateType"] == attestation.PROVENANCE_TYPE
    (referrer,) = server.referring_to(attested.digest)
    document = json.loads(server.manifests[referrer])
    assert server.blobs[document["layers"][0]["digest"]].decode() == attested.bundle
    assert document["artifactType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert (attested.tag in server.manifests) is not referrers
    if not referrers:
        (entry,) = json.loads(server.manifests[attested.tag])["manifests"]
        assert entry["digest"] == referrer


def test_only_the_statement_is_sent(attested: Attested) -> None:
    attested.server.requests.clear()
    before = attested.server.received
    assert attested.attest().error is None
    assert attested.server.received - before < 3 * len(attested.bundle)
    model = {
        each["digest"] for each in json.loads(attested.server.manifests[attested.digest])["layers"]
    }
    assert not any(path.rsplit("/", 1)[1] in model for _, path, _ in attested.server.requests)


def test_the_same_statement_again_changes_nothing(attested: Attested) -> None:
    assert attested.attest().error is None
    before = dict(attested.server.manifests)
    attested.server.requests.clear()
    assert attested.attest().error is None
    assert attested.server.manifests == before
    assert {method for method, _, _ in attested.server.requests} == {"GET"}


def test_statements_of_others_stay(attested: Attested) -> None:
    other = bundle_about("image", attested.digest, by="a tenant")
    assert attested.attest(other).error is None
    first = attested.layers()
    assert attested.attest().error is None
    assert attested.layers()[:1] == first
    assert len(attested.layers()) == 2
    config = json.loads(attested.server.manifests[f"{attested.tag}.att"])["config"]
    document = json.loads(attested.server.blobs[config["digest"]])
    assert document["rootfs"]["diff_ids"] == [each["digest"] for each in attested.layers()]
    assert len(json.loads(attested.server.manifests[attested.tag])["manifests"]) == 2


@pytest.mark.parametrize("suffix", ["", ".att"])
@pytest.mark.parametrize("content", [b"{}", b"[]", b"no JSON", b'{"layers": [1], "manifests": 1}'])
def test_a_tag_with_something_else_is_not_replaced(
    attested: Attested, suffix: str, content: bytes
) -> None:
    attested.server.tag(f"{attested.tag}{suffix}", content)
    done = attested.attest()
    assert done.failure[0] == "TargetConflict"
    assert "delete this tag at the registry" in done.failure[1]
    assert done.only.attestation is None
    assert attested.server.manifests[f"{attested.tag}{suffix}"] == content


def test_an_image_that_is_gone_gets_no_statement(attested: Attested) -> None:
    del attested.server.manifests[attested.digest]
    done = attested.attest()
    assert done.failure[0] == "TargetRejected"
    assert "is gone" in done.failure[1]
    assert f"{attested.tag}.att" not in attested.server.manifests


def test_another_image_under_the_digest_gets_no_statement(attested: Attested) -> None:
    attested.server.manifests[attested.digest] += b" "
    assert attested.attest().failure[0] == "TargetRejected"
    assert digest_of(attested.server.manifests[attested.digest]) != attested.digest


def test_a_published_folder_is_verified_with_the_statement_in_it(
    volume: Volume,
    store: Store,
    target: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = publish(volume, target)
    assert done.only.digest == f"sha256:{done.only.manifest}"
    bundle = bundle_about("s3://models/team", str(done.only.digest))
    asked = target | {"attestation": bundle, "attested": done.only.digest}
    for _ in range(2):
        added = run(volume, asked, environment=KEYS)
        assert added.error is None, added.failure
        assert added.only.attestation == payload_digest(bundle)
    folder = written(store, tmp_path / "objects")
    (tmp_path / "signing.pub").write_bytes(KEY.public_key)
    command = ["verify", str(folder), "--key", str(tmp_path / "signing.pub")]
    assert ftj.main(command) == 0, capsys.readouterr().err
    path = folder / "config.json"
    path.write_bytes(path.read_bytes() + b" ")
    assert ftj.main(command) == 12
    other = asked | {"attestation": bundle_about("other", str(done.only.digest))}
    refused = run(volume, other, environment=KEYS)
    assert refused.failure[0] == "TargetConflict"


def test_a_folder_that_is_gone_gets_no_statement(
    volume: Volume, store: Store, target: dict[str, Any]
) -> None:
    digest = "sha256:" + "1" * 64
    asked = target | {"attestation": bundle_about("other", digest), "attested": digest}
    refused = run(volume, asked, environment=KEYS)
    assert refused.failure[0] == "TargetRejected"
    assert store.objects == {}


class Verified:
    """``ftj verify`` of an image."""

    def __init__(
        self, attested: Attested, certificate: Certificate, folder: Path, capsys: Any
    ) -> None:
        self.attested, self.server = attested, attested.server
        self.bundle = bundle_about(
            "image",
            attested.digest,
            buildDefinition={"resolvedDependencies": [{"name": "base", "uri": "hf://org/base@c"}]},
        )
        attested.attest(self.bundle)
        self.key = folder / "signing.pub"
        self.key.write_bytes(KEY.public_key)
        self._certificate, self._capsys = certificate, capsys

    def verify(self, *options: str, digest: str | None = None) -> tuple[int, str, str]:
        reference = f"oci://{self.server.host}/team/tiny@{digest or self.attested.digest}"
        given = ["--key", str(self.key), "--ca", str(self._certificate.authority), *options]
        code = ftj.main(["verify", reference, *given])
        return code, *self._capsys.readouterr()

    def layer(self, name: str) -> str:
        layers = json.loads(self.server.manifests[self.attested.digest])["layers"]
        titles = {each["annotations"]["org.opencontainers.image.title"]: each for each in layers}
        return str(titles[name]["digest"])


@pytest.fixture
def verified(
    attested: Attested,
    certificate: Certificate,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Verified:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return Verified(attested, certificate, tmp_path, capsys)


def test_an_image_is_verified(verified: Verified) -> None:
    code, text, said = verified.verify("--base", "org/base")
    assert code == 0, said
    subject = json.loads(text)["subject"][0]["digest"]["sha256"]
    assert subject == verified.attested.digest.removeprefix("sha256:")


@pytest.mark.parametrize("referrers", [False, True])
def test_a_statement_that_is_stored_twice_is_printed_once(
    verified: Verified, referrers: bool
) -> None:
    verified.server.referrers = referrers
    verified.attested.attest(verified.bundle)
    assert len(verified.attested.layers()) == 1
    assert len(verified.server.referring_to(verified.attested.digest)) == 1
    (statement,) = json.loads(verified.verify("-o", "json")[1])
    assert statement == attestation.statement(attestation.opened(verified.bundle.encode()).payload)


def test_permission_to_pull_is_enough_to_verify(verified: Verified, tmp_path: Path) -> None:
    verified.server.user, verified.server.bearer, verified.server.actions = USER, True, "pull"
    entry = {"username": USER[0], "password": USER[1]}
    config = {"auths": {verified.server.host: entry}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, _, said = verified.verify()
    assert code == 0, said
    assert {*verified.server.scopes} == {"repository:team/tiny:pull"}


def test_a_password_that_the_registry_denies_names_the_file(
    verified: Verified, tmp_path: Path
) -> None:
    verified.server.user = ("someone", "else")
    config = {"auths": {verified.server.host: {"username": USER[0], "password": USER[1]}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, _, said = verified.verify()
    assert code != 0
    assert f"{tmp_path / 'config.json'} are correct and have permission to pull" in said


def test_a_changed_blob_of_an_image_is_found(verified: Verified) -> None:
    digest = verified.layer("adapter_model.safetensors")
    data = bytearray(verified.server.blobs[digest])
    data[1500] ^= 1
    verified.server.blobs[digest] = bytes(data)
    code, text, said = verified.verify()
    assert code == 12, said
    assert "adapter_model.safetensors" in said
    assert not text


def test_a_missing_blob_of_an_image_is_found(verified: Verified) -> None:
    del verified.server.blobs[verified.layer("adapter_config.json")]
    code, _, said = verified.verify()
    assert code == 13, said
    assert "adapter_config.json" in said


def test_a_changed_manifest_is_found(verified: Verified) -> None:
    verified.server.manifests[verified.attested.digest] += b" "
    assert verified.verify()[0] == 12


def test_an_image_with_an_additional_layer_has_no_statement(verified: Verified) -> None:
    document = json.loads(verified.server.manifests[verified.attested.digest])
    document["layers"].append(document["layers"][0])
    digest = verified.server.tag("other", json.dumps(document).encode())
    assert verified.verify(digest=digest)[0] == 10
    # The statements of the signed image are no statements about it.
    tag = digest.replace(":", "-")
    signed_tag = verified.server.manifests[f"{verified.attested.tag}.att"]
    verified.server.manifests[f"{tag}.att"] = signed_tag
    assert verified.verify(digest=digest)[0] == 11


def test_a_missing_image_is_found(verified: Verified) -> None:
    assert verified.verify(digest="sha256:" + "0" * 64)[0] == 13


def test_another_key_is_rejected_and_statements_of_others_do_not_matter(
    verified: Verified,
) -> None:
    others = new_key()
    verified.attested.attest(json.dumps(signed.bundle({**STATEMENT_OF_OTHERS}, others)))
    assert len(verified.attested.layers()) == 2
    code, text, _ = verified.verify()
    assert code == 0
    assert "tenant" not in text
    verified.key.write_bytes(new_key().public_key)
    assert verified.verify()[0] == 11


@pytest.mark.parametrize("referrers", [False, True])
def test_an_image_is_verified_by_its_referrer_alone(verified: Verified, referrers: bool) -> None:
    server, tag = verified.server, verified.attested.tag
    del server.manifests[f"{tag}.att"]
    if referrers:
        server.referrers = True
        del server.manifests[tag]
    code, _, said = verified.verify()
    assert code == 0, said


def test_another_base_of_an_image_is_rejected(verified: Verified) -> None:
    code, _, said = verified.verify("--base", "org/other")
    assert code == 15, said


@pytest.mark.parametrize(
    "reference", ["oci://host/name", "oci://host/name:tag", "oci://x@sha256:1"]
)
def test_an_image_is_named_by_digest(
    reference: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "signing.pub").write_bytes(KEY.public_key)
    assert ftj.main(["verify", reference, "--key", str(tmp_path / "signing.pub")]) == 1
    assert "oci://HOST/REPOSITORY@sha256:DIGEST" in capsys.readouterr().err
