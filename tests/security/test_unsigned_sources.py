"""A tenant or a server offers a source that the administrator has not signed; prepare refuses it.

``policy.signatures`` names the keys. Whoever can write the source, but has none of them, must not
get a byte into a training: neither with another signature, nor with a signature of other content.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import registry as fake
from tests.fakes.registry import Registry, digest_of
from tests.support.signed_folder import digests, required, sign
from tests.support.signing_keys import KEY, new_key
from tests.support.trainer import images, web
from tests.support.trainer.web import Certificate

from finetune_api.contracts.provenance import attestation
from finetune_api.contracts.provenance.attestation import BUNDLE_MARK, BUNDLE_TYPE, ENVELOPE_TYPE
from finetune_api.contracts.provenance.signatures import RequiredSignature
from finetune_api.policy.signatures import covers
from finetune_api.v1alpha1.model import Model
from finetune_api.v1alpha1.sources import Kind
from finetune_operator.provenance import signed
from finetune_operator.signing import SigningKey
from finetune_trainer.errors import SourceNotSigned, TrainerError
from finetune_trainer.preparation.signed_sources import Signatures
from finetune_trainer.publishing.oci.attestation import EMPTY_TYPE
from finetune_trainer.sources import open_store, transfer
from finetune_trainer.sources.oci.store import OCI
from finetune_trainer.sources.repository import Store
from finetune_trainer.volume_layout import Layout

pytestmark = pytest.mark.finding(20, "a source without the required signature is used")

SOURCE = "pvc://models/base"
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": bytes(range(256)) * 40,
    "tokenizer/vocab.txt": b"a\nb\n",
}
ANY = (required(),)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A signed model on a claim, which a test may change."""
    monkeypatch.setenv("FINETUNE_SOURCES_DIR", str(tmp_path / "claims"))
    found = tmp_path / "claims/models/base"
    for name, data in FILES.items():
        (found / name).parent.mkdir(parents=True, exist_ok=True)
        (found / name).write_bytes(data)
    sign(found)
    return found


def prepare(
    store: Store,
    work: Path,
    rules: tuple[RequiredSignature, ...] = ANY,
    *,
    kind: Kind = "model",
    source: str = SOURCE,
    between: Callable[[], object] = lambda: None,
) -> None:
    """Do what prepare does with a source. between: happens after its statement was read."""
    work.mkdir(exist_ok=True)
    signatures = Signatures(rules, Layout(work=work))
    repository = store.pin()
    signatures.pinned(kind, source, store, repository)
    between()
    into = work / "files"
    into.mkdir(exist_ok=True)
    names = [name for name in repository.files if name not in attestation.FILES]
    signatures.check(kind, store.download(repository, names, into, on_bytes=lambda count: None))


def on_claim() -> Store:
    return open_store("model", Model(source=SOURCE))


def test_a_signed_source_is_used(folder: Path, tmp_path: Path) -> None:
    prepare(on_claim(), tmp_path / "work")


def test_one_of_several_keys_is_enough(folder: Path, tmp_path: Path) -> None:
    prepare(on_claim(), tmp_path / "work", (required(keys=(new_key(), KEY)),))


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def flip(name: str) -> Callable[[Path], object]:
    def flipped(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    return flipped


def signed_elsewhere(folder: Path) -> None:
    other = folder.parent / "other"
    other.mkdir()
    (other / "config.json").write_bytes(b"{}")
    sign(other)
    (other / attestation.MODEL_SIGNATURE_FILE).rename(folder / attestation.MODEL_SIGNATURE_FILE)


def signed_without(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).unlink()
    sign(folder)
    (folder / name).write_bytes(data)


def of_an_image(folder: Path) -> None:
    """A provenance about an image, which names no file of this folder."""
    statement = {
        "_type": attestation.STATEMENT_TYPE,
        "subject": [{"name": "image", "digest": {"sha256": digests(folder)["config.json"]}}],
        "predicateType": attestation.PROVENANCE_TYPE,
        "predicate": {},
    }
    (folder / attestation.MODEL_SIGNATURE_FILE).write_text(
        json.dumps(signed.bundle(statement, KEY))
    )


ATTACKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "unsigned": (remove("model.sig"), "it has no file model.sig or provenance.sigstore.json"),
    "another key": (lambda folder: sign(folder, new_key()), "has no valid signature of the key"),
    "a signature of another source": (
        signed_elsewhere,
        "config.json differs from the file that was signed",
    ),
    "a changed statement": (flip("model.sig"), "model.sig"),
    "no statement": (lambda folder: (folder / "model.sig").write_text("{}"), "cannot be checked"),
    "a long statement": (
        lambda folder: (folder / "model.sig").write_bytes(b" " * (attestation.LONGEST + 1)),
        "has more than 4,194,304 bytes",
    ),
    "a statement about an image": (of_an_image, "names no files"),
    **{
        f"a flipped bit in {name}": (flip(name), f"{name} differs from the file that was signed")
        for name in FILES
    },
    **{
        f"{name} is removed": (remove(name), f"names {name}, which the source lacks")
        for name in FILES
    },
    **{
        f"{name} was added": (
            partial(signed_without, name=name),
            f"{name} is not a part of what was signed",
        )
        for name in FILES
    },
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_unsigned_source_is_refused(folder: Path, tmp_path: Path, attack: str) -> None:
    change, said = ATTACKS[attack]
    change(folder)
    with pytest.raises(SourceNotSigned) as caught:
        prepare(on_claim(), tmp_path / "work")
    text = str(caught.value)
    assert text.startswith(f"model.source is {SOURCE}, which needs a signature according to")
    assert said in text
    assert "ask your administrator to sign" in text


def test_files_that_change_after_the_statement_was_read_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(SourceNotSigned, match=r"config\.json differs"):
        prepare(on_claim(), tmp_path / "work", between=lambda: flip("config.json")(folder))


def test_each_entry_that_covers_a_source_must_be_met(folder: Path, tmp_path: Path) -> None:
    other = required("pvc://models/.*", keys=(new_key(),))
    with pytest.raises(SourceNotSigned, match="no valid signature"):
        prepare(on_claim(), tmp_path / "work", (*ANY, other))


@pytest.mark.parametrize(
    ("kind", "what"),
    [("model", "model"), ("training.startFrom", "adapter"), ("datasets[a]", "dataset")],
)
def test_an_entry_is_for_what_it_names(tmp_path: Path, kind: Kind, what: Any) -> None:
    layout = Layout(work=tmp_path)
    others = tuple({"model", "adapter", "dataset"} - {what})
    assert Signatures([required(what=(what,))], layout).cover(kind, SOURCE)
    assert not Signatures([required(what=others)], layout).cover(kind, SOURCE)


@pytest.mark.parametrize(
    ("pattern", "source"),
    [
        ("hf://acme/.*", "hf://ACME/model"),
        ("hf://Acme/.*", "hf://acme/model"),
        (r"oci://r\.example\.com/.*", "oci://r.example.com:443/m:1"),
        (r"oci://r\.example\.com:443/.*", "oci://r.example.com/m@sha256:0"),
        ("hf://acme/[^A]+", "hf://acme/a"),
        (r"oci://r\.example\.com/.*", "oci://r.example.com:0443/m:1"),
        (r"oci://r\.example\.com:5000/.*", "oci://r.example.com:05000/m:1"),
        (r"oci://docker\.io/.*", "oci://registry-1.docker.io/acme/m:1"),
        (r"oci://docker\.io/.*", "oci://index.docker.io:443/acme/m:1"),
        (r"oci://registry-1\.docker\.io/.*", "oci://docker.io/acme/m:1"),
        (r"https://files\.example\.com/.*", "https://files.example.com:443/m/SHA256SUMS"),
        (r"https://files\.example\.com/.*", "https://FILES.example.com./m/SHA256SUMS"),
        (r"https://files\.example\.com:443/.*", "https://files.example.com../m/SHA256SUMS"),
        (r"https://files\.example\.com/M/.*", "https://Files.example.com:00443/M/SHA256SUMS"),
    ],
)
def test_another_spelling_of_a_source_is_covered(pattern: str, source: str) -> None:
    assert covers([pattern], source)


@pytest.mark.parametrize(
    ("pattern", "source"),
    [
        (r"oci://r\.example\.com/.*", "oci://r.example.com:5000/m:1"),
        (r"oci://r\.example\.com:5000/.*", "oci://r.example.com/m:1"),
        (r"oci://docker\.io/.*", "oci://mirror.docker.io/acme/m:1"),
        (r"https://docker\.io/.*", "https://index.docker.io/acme/m"),
        (r"https://files\.example\.com/M/.*", "https://other.example.com/M/SHA256SUMS"),
    ],
)
def test_another_server_is_not_covered(pattern: str, source: str) -> None:
    assert not covers([pattern], source)


# Images in a registry.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return web.certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def _server(certificate: Certificate) -> Iterator[Registry]:
    with fake.serving(certificate.context()) as found:
        yield found


@pytest.fixture
def registry(_server: Registry, monkeypatch: pytest.MonkeyPatch) -> Registry:
    _server.reset()
    monkeypatch.setattr(transfer, "PAUSES", ())
    return _server


class Image:
    """An image in a registry, and the statements next to it."""

    def __init__(self, registry: Registry, certificate: Certificate) -> None:
        self.registry = registry
        self.digest = images.push(registry, images.files(FILES))
        self.source = f"oci://{registry.host}/team/tiny:latest"
        self.store = OCI(
            kind="model", source=self.source, login=None, ca_file=certificate.authority
        )

    def statement(self, digest: str = "", **changes: Any) -> dict[str, Any]:
        subject = (digest or self.digest).removeprefix("sha256:")
        return {
            "_type": attestation.STATEMENT_TYPE,
            "subject": [{"name": "image", "digest": {"sha256": subject}}],
            "predicateType": attestation.PROVENANCE_TYPE,
            "predicate": {},
        } | changes

    def sign(self, statement: dict[str, Any], key: SigningKey = KEY) -> None:
        """Store a signed statement as cosign does until version 2."""
        tag = f"{self.digest.replace(':', '-')}.att"
        layer = self._blob(json.dumps(signed.envelope(statement, key)).encode(), ENVELOPE_TYPE)
        self.registry.tag(tag, json.dumps({"layers": [layer]}).encode())

    def refer(self, statement: dict[str, Any], key: SigningKey = KEY, **fields: Any) -> None:
        """Store a signed statement as later versions do, at a registry that lists none.

        fields: of the entry in the list.
        """
        layer = self._blob(json.dumps(signed.bundle(statement, key)).encode(), BUNDLE_TYPE)
        manifest = json.dumps({"layers": [layer]}).encode()
        digest = digest_of(manifest)
        self.registry.manifests[digest] = manifest
        entry = {"digest": digest, "size": len(manifest), "artifactType": BUNDLE_TYPE} | fields
        tag = self.digest.replace(":", "-")
        self.registry.tag(tag, json.dumps({"manifests": [entry]}).encode())

    def _blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        digest = digest_of(data)
        self.registry.blobs[digest] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def prepare(self, work: Path, *rules: RequiredSignature) -> None:
        prepare(self.store, work, rules or ANY, source=self.source)


@pytest.fixture
def image(registry: Registry, certificate: Certificate) -> Image:
    return Image(registry, certificate)


def test_a_signed_image_is_used(image: Image, tmp_path: Path) -> None:
    image.sign(image.statement())
    image.prepare(tmp_path / "work")


def test_an_image_with_a_signature_that_refers_to_it_is_used(image: Image, tmp_path: Path) -> None:
    # cosign does not name the image.
    subject = [{"digest": {"sha256": image.digest.removeprefix("sha256:")}}]
    image.refer(image.statement(subject=subject, predicateType=attestation.COSIGN_SIGNATURE_TYPE))
    image.prepare(tmp_path / "work")


def test_a_registry_may_list_the_type_of_a_configuration(image: Image, tmp_path: Path) -> None:
    """go-containerregistry does, and copies the annotations."""
    marked = {BUNDLE_MARK: "dsse-envelope"}
    image.refer(image.statement(), artifactType=EMPTY_TYPE, annotations=marked)
    image.prepare(tmp_path / "work")


def chosen_bytes(image: Image) -> dict[str, Any]:
    """The image is a file of a published model: a tenant may choose the bytes of one."""
    file = {"name": "chat_template.jinja", "digest": {"sha256": image.digest[7:]}}
    published = {"name": "image", "digest": {"sha256": "0" * 64}}
    return image.statement(subject=[published, file])


IMAGE_ATTACKS: dict[str, tuple[Callable[[Image], object], str]] = {
    "unsigned": (lambda image: None, "has no signed statement"),
    "another key": (
        lambda image: image.sign(image.statement(), new_key()),
        "has no valid signature of the key",
    ),
    "another key, as a referrer": (
        lambda image: image.refer(image.statement(), new_key()),
        "has no valid signature of the key",
    ),
    "a list with another type and wrong annotations": (
        lambda image: image.refer(
            image.statement(), artifactType=EMPTY_TYPE, annotations=[BUNDLE_MARK]
        ),
        "has no signed statement",
    ),
    "a statement about another image": (
        lambda image: image.sign(image.statement(f"sha256:{'0' * 64}")),
        "is not about the image",
    ),
    "a statement about a file with these bytes": (
        lambda image: image.sign(chosen_bytes(image)),
        "is not about the image",
    ),
    "a scan of the image": (
        lambda image: image.sign(
            image.statement(predicateType="https://cosign.sigstore.dev/attestation/vuln/v1")
        ),
        "is not about the image",
    ),
}


@pytest.mark.parametrize("attack", IMAGE_ATTACKS)
def test_an_unsigned_image_is_refused(image: Image, tmp_path: Path, attack: str) -> None:
    change, said = IMAGE_ATTACKS[attack]
    change(image)
    with pytest.raises(SourceNotSigned, match=said):
        image.prepare(tmp_path / "work")


def test_the_bytes_of_a_signed_image_are_those_of_its_manifest(
    image: Image, tmp_path: Path
) -> None:
    image.sign(image.statement())
    (layer,) = json.loads(image.registry.manifests["latest"])["layers"]
    data = image.registry.blobs[layer["digest"]]
    image.registry.blobs[layer["digest"]] = data.replace(b"llama", b"lhama")
    with pytest.raises(TrainerError):
        image.prepare(tmp_path / "work")


@pytest.mark.parametrize(
    "document",
    [b"", b"[]", b'{"layers": 1}', b'{"layers": [{"digest": "../../_catalog"}]}'],
    ids=["empty", "list", "number", "path"],
)
def test_a_list_of_statements_that_is_none_is_refused(
    image: Image, tmp_path: Path, document: bytes
) -> None:
    image.registry.tag(f"{image.digest.replace(':', '-')}.att", document)
    with pytest.raises(TrainerError, match="is no list of signed statements"):
        image.prepare(tmp_path / "work")
