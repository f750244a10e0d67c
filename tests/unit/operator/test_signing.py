"""The signing key: which keys are accepted, that signatures are valid and equal, and no leaks."""

import base64
import copy
import json
import pickle
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from tests.fakes.apiserver import CONFIG

from finetune_api.contracts.provenance import attestation
from finetune_operator.config import Settings
from finetune_operator.environment import ConfigurationError, load_config
from finetune_operator.provenance import signed
from finetune_operator.revisions.documents import frozen_part
from finetune_operator.signing import InvalidKey, SigningKey

VALID = "images: {trainer: t, serving: s, operator: o}\n"
STATEMENT = {
    "_type": attestation.STATEMENT_TYPE,
    "subject": [{"name": "model", "digest": {"sha256": "a" * 64}}],
    "predicateType": attestation.PROVENANCE_TYPE,
    "predicate": {},
}
Private = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def pem(key: Private, *, password: bytes | None = None, sec1: bool = False) -> bytes:
    form = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(
        serialization.Encoding.PEM,
        form if sec1 else serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption()
        if password is None
        else serialization.BestAvailableEncryption(password),
    )


OWN = ec.generate_private_key(ec.SECP256R1())
PEM = pem(OWN)


@pytest.mark.parametrize("sec1", [False, True])
def test_a_signature_is_valid_and_always_the_same(sec1: bool) -> None:
    key = SigningKey(pem(OWN, sec1=sec1))
    envelope = signed.envelope(STATEMENT, key)
    assert envelope == signed.envelope(STATEMENT, SigningKey(PEM))
    opened = attestation.opened(json.dumps(envelope).encode())
    data = attestation.signed_bytes(opened.payload)
    public = serialization.load_pem_public_key(key.public_key)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(opened.signatures[0], data, ec.ECDSA(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        public.verify(opened.signatures[0], data + b" ", ec.ECDSA(hashes.SHA256()))


def test_the_signed_bytes_are_those_of_the_dsse_specification() -> None:
    assert attestation.signed_bytes(b"hello world") == (
        b"DSSEv1 28 application/vnd.in-toto+json 11 hello world"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "no unencrypted private key in PEM format"),
        (b"SECRET-TEXT", "no unencrypted private key in PEM format"),
        (PEM[:-60], "no unencrypted private key in PEM format"),
        (pem(OWN, password=b"p"), "no unencrypted private key in PEM format"),
        (
            pem(ec.generate_private_key(ec.SECP384R1())),
            "no elliptic curve key with the curve P-256",
        ),
        (pem(ed25519.Ed25519PrivateKey.generate()), "no elliptic curve key with the curve P-256"),
        (pem(rsa.generate_private_key(65537, 2048)), "no elliptic curve key with the curve P-256"),
    ],
    ids=["empty", "no PEM", "cut", "encrypted", "P-384", "Ed25519", "RSA"],
)
def test_other_keys_are_an_error_at_startup_that_names_the_value(
    text: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidKey, match=message):
        SigningKey(text)
    (tmp_path / "key.pem").write_bytes(text)
    (tmp_path / "c.yaml").write_text(VALID + f"signingKeyFile: {tmp_path}/key.pem\n")
    with pytest.raises(ConfigurationError) as refused:
        load_config(tmp_path / "c.yaml")
    assert "provenance.signingKeySecret" in str(refused.value)
    assert "openssl genpkey" in str(refused.value)
    assert "SECRET-TEXT" not in str(refused.value)
    assert not any(line in str(refused.value) for line in text.decode().splitlines() if line)


def test_a_missing_file_is_an_error_at_startup(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(VALID + f"signingKeyFile: {tmp_path}/none.pem\n")
    with pytest.raises(ConfigurationError, match=r"none\.pem .*signingKeySecretKey"):
        load_config(tmp_path / "c.yaml")


def test_the_document_cannot_contain_the_key(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(VALID + f"signingKey: {json.dumps(PEM.decode())}\n")
    with pytest.raises(ConfigurationError, match="signingKey: ") as refused:
        load_config(tmp_path / "c.yaml")
    assert PEM.decode().splitlines()[1] not in str(refused.value)


def test_no_text_about_the_settings_contains_the_key(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(PEM)
    (tmp_path / "c.yaml").write_text(VALID + f"signingKeyFile: {tmp_path}/key.pem\n")
    process, settings = load_config(tmp_path / "c.yaml")
    assert settings.signing_key == SigningKey(PEM)
    secret = [line for line in PEM.decode().splitlines() if "-----" not in line]
    number = str(OWN.private_numbers().private_value)
    for text in (
        repr(settings),
        str(settings),
        repr(process),
        settings.model_dump_json(),
        str(settings.model_dump()),
        frozen_part(settings),
        repr(settings.signing_key),
        str(vars(settings.signing_key)),
    ):
        assert not any(line in text for line in (*secret, number))
        assert base64.b64encode(PEM).decode() not in text


def test_the_key_changes_neither_the_frozen_text_nor_the_digest_of_settings_without_it() -> None:
    with_key = CONFIG.model_copy(update={"signing_key": SigningKey(PEM)})
    assert frozen_part(with_key) == frozen_part(CONFIG)
    assert Settings.model_validate(CONFIG.model_dump()).digest == CONFIG.digest
    assert with_key != CONFIG
    assert with_key == CONFIG.model_copy(update={"signing_key": SigningKey(PEM)})


def test_a_key_is_copied_within_the_process_only() -> None:
    key = SigningKey(PEM)
    assert copy.deepcopy(key) is key
    with pytest.raises(TypeError, match="neither copied to another process nor stored"):
        pickle.dumps(key)
