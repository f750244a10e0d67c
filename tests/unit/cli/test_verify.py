"""``ftj verify`` of a folder: each kind of change has its reason and its exit code."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.support.model_signature import model_signature
from tests.support.published_facts import COMMIT, facts
from tests.support.published_folder import CONTENT, Published
from tests.support.signing_keys import KEY, new_key

from finetune_cli import __main__ as ftj
from finetune_cli.verifying.failures import Code
from finetune_operator.provenance.statement import statement

BOTH = ("model.sig", "provenance.sigstore.json")


@pytest.fixture(params=[BOTH[:1], BOTH[1:], BOTH], ids=["model.sig", "provenance", "both"])
def published(request: pytest.FixtureRequest, tmp_path: Path) -> Published:
    (tmp_path / "model").mkdir()
    return Published(tmp_path / "model", request.param)


@pytest.fixture
def provenance(tmp_path: Path) -> Published:
    (tmp_path / "model").mkdir()
    return Published(tmp_path / "model", BOTH[1:])


def test_a_published_folder_is_verified(
    published: Published, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text, said = published.verify(capsys)
    assert code == 0, said
    assert '"https://in-toto.io/Statement/v1"' in text
    assert "all 4 files match" in said


def test_the_statement_is_printed(
    provenance: Published, capsys: pytest.CaptureFixture[str]
) -> None:
    _, text, _ = provenance.verify(capsys)
    assert json.loads(text) == provenance.statement()


@pytest.mark.parametrize("name", [*CONTENT, "manifest.json"])
@pytest.mark.parametrize("place", ["first", "middle", "last", "appended", "cut"])
def test_a_changed_byte_is_found(
    published: Published, name: str, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = published.folder / name
    data = bytearray(path.read_bytes())
    match place:
        case "appended":
            data += b"\n"
        case "cut":
            del data[-1]
        case _:
            at = {"first": 0, "middle": len(data) // 2, "last": len(data) - 1}[place]
            data[at] ^= 1
    path.write_bytes(data)
    code, text, said = published.verify(capsys)
    assert code == Code.CHANGED, said
    assert f"{name} is changed since it was signed" in said
    assert not text


@pytest.mark.parametrize("name", [*CONTENT, "manifest.json"])
def test_a_missing_file_is_found(
    published: Published, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (published.folder / name).unlink()
    code, _, said = published.verify(capsys)
    assert code == Code.MISSING
    assert f"{name} is missing" in said


def add(name: str) -> Callable[[Path], object]:
    def added(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")

    return added


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("extra.bin", add("extra.bin")),
        (".hidden", add(".hidden")),
        ("tokenizer/model.sig", add("tokenizer/model.sig")),
        ("new/file", add("new/file")),
        (".gitattributes", add(".gitattributes")),
        (".cache/huggingface/file", add(".cache/huggingface/file")),
        ("pipe", lambda folder: os.mkfifo(folder / "pipe")),
        ("link", lambda folder: (folder / "link").symlink_to("config.json")),
        ("folder", lambda folder: (folder / "folder").symlink_to("/etc")),
    ],
)
def test_an_additional_file_is_found(
    published: Published,
    name: str,
    change: Callable[[Path], object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(published.folder)
    code, _, said = published.verify(capsys)
    assert code == Code.EXTRA, said
    assert f"{name} is not part of the signed model" in said


def test_a_link_to_the_same_content_is_a_change(
    published: Published, capsys: pytest.CaptureFixture[str]
) -> None:
    path = published.folder / "config.json"
    path.rename(published.folder.parent / "config.json")
    path.symlink_to("../config.json")
    code, _, said = published.verify(capsys)
    assert code == Code.CHANGED, said


def test_the_key_of_another_operator_is_rejected(
    published: Published, capsys: pytest.CaptureFixture[str]
) -> None:
    published.key.write_bytes(new_key().public_key)
    code, text, said = published.verify(capsys)
    assert code == Code.NOT_SIGNED
    assert "no valid signature of the key" in said
    assert not text


def test_a_statement_that_someone_else_signed_is_rejected(
    provenance: Published, capsys: pytest.CaptureFixture[str]
) -> None:
    provenance.sign(provenance.statement(), new_key())
    assert provenance.verify(capsys)[0] == Code.NOT_SIGNED


@pytest.mark.parametrize("part", ["payload", "sig"])
def test_every_byte_of_payload_and_signature_counts(
    provenance: Published, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = provenance.folder / "provenance.sigstore.json"
    original = path.read_text()
    envelope = json.loads(original)["dsseEnvelope"]
    text = envelope["payload"] if part == "payload" else envelope["signatures"][0]["sig"]
    start = original.index(text)
    # The last characters have bits that base64 does not use.
    for at in range(start, start + len(text) - 4, max(1, len(text) // 40)):
        other = "B" if original[at] == "A" else "A"
        path.write_text(original[:at] + other + original[at + 1 :])
        assert provenance.verify(capsys)[0] == Code.NOT_SIGNED, at
    path.write_text(original)
    assert provenance.verify(capsys)[0] == 0


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{}", "[" * 100_000, '{"dsseEnvelope": 1}', '{"payloadType": "text/plain"}'],
    ids=["empty", "list", "null", "object", "deep", "number", "other payload"],
)
def test_a_document_that_is_no_statement_is_rejected(
    provenance: Published, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (provenance.folder / "provenance.sigstore.json").write_text(text)
    code, _, said = provenance.verify(capsys)
    assert code == Code.NOT_SIGNED
    assert "provenance.sigstore.json cannot be checked" in said


@pytest.mark.parametrize(
    "changes",
    [{"_type": "other"}, {"subject": []}, {"subject": [{"name": "a"}]}, {"predicate": []}],
    ids=["type", "no subjects", "subject without digest", "predicate"],
)
def test_a_signed_document_that_is_no_statement_is_rejected(
    provenance: Published, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    provenance.sign(provenance.statement() | changes)
    code, _, said = provenance.verify(capsys)
    assert code == Code.NOT_SIGNED
    assert "cannot be used" in said


def test_the_signature_of_another_model_is_no_proof(
    provenance: Published, capsys: pytest.CaptureFixture[str]
) -> None:
    provenance.sign(statement(facts("bucket")))
    assert provenance.verify(capsys)[0] == Code.CHANGED


def test_a_folder_with_the_digest_of_another_model_is_not_verified(
    published: Published, capsys: pytest.CaptureFixture[str]
) -> None:
    published.folder = published.folder.rename(published.folder.with_name(f"sha256-{'0' * 64}"))
    code, text, said = published.verify(capsys)
    assert code == Code.NOT_SIGNED, said
    assert f"sha256-{'0' * 64} contains another signed model" in said
    assert not text


def test_a_statement_about_an_image_without_files_says_what_to_verify(
    provenance: Published, capsys: pytest.CaptureFixture[str]
) -> None:
    about = provenance.statement()
    provenance.sign(about | {"subject": about["subject"][:1]})
    code, _, said = provenance.verify(capsys)
    assert code == Code.NO_STATEMENT
    assert "names no files" in said


def test_both_statements_have_to_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    published = Published(tmp_path / "model", BOTH)
    (published.folder / "config.json").write_bytes(b"{}")
    (published.folder / "model.sig").write_text(
        json.dumps(model_signature("support", published.digests(), KEY))
    )
    code, _, said = published.verify(capsys)
    assert code == Code.CHANGED
    assert "compared with provenance.sigstore.json" in said


def test_listed_files_are_compared_without_the_manifest(
    provenance: Published, capsys: pytest.CaptureFixture[str]
) -> None:
    provenance.sign(provenance.statement(files=True))
    assert provenance.verify(capsys)[0] == 0
    (provenance.folder / "config.json").write_bytes(b"{}")
    assert provenance.verify(capsys)[0] == Code.CHANGED


def test_a_folder_without_a_statement_is_not_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    code, _, said = Published(tmp_path / "model", ()).verify(capsys)
    assert code == Code.NO_STATEMENT
    assert "no signed statement" in said


@pytest.mark.parametrize("base", ["org/base", "hf://org/base", f"org/base@{COMMIT}"])
def test_the_base_is_the_expected_one(
    provenance: Published, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert provenance.verify(capsys, "--base", base)[0] == 0


@pytest.mark.parametrize("base", ["org/other", "org/bas", "s3://org/base", f"org/base@{'0' * 40}"])
def test_another_base_is_rejected(
    provenance: Published, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text, said = provenance.verify(capsys, "--base", base)
    assert code == Code.OTHER_BASE
    assert f"tuned from hf://org/base@{COMMIT}" in said
    assert not text


def test_a_model_signature_does_not_prove_the_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    published = Published(tmp_path / "model", BOTH[:1])
    code, _, said = published.verify(capsys, "--base", "org/base")
    assert code == Code.OTHER_BASE
    assert "no signed statement names the base" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"no key", "no public key in PEM format"),
        (
            ec.generate_private_key(ec.SECP384R1())
            .public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            ),
            "another kind of key",
        ),
    ],
    ids=["no PEM", "P-384"],
)
def test_other_keys_are_an_error(
    provenance: Published, text: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    provenance.key.write_bytes(text)
    code, _, said = provenance.verify(capsys)
    assert code == 1
    assert message in said


def test_a_model_on_a_hub_is_to_be_downloaded_first(
    provenance: Published, capsys: pytest.CaptureFixture[str]
) -> None:
    code = ftj.main(["verify", "hf://acme/support", "--key", str(provenance.key)])
    assert code == 1
    assert "run hf download acme/support --revision COMMIT" in capsys.readouterr().err
