"""Signed statements about a published model: in-toto statements in DSSE envelopes.

The operator signs and ``ftj verify`` checks; both take the bytes that are signed, and the forms in
which they are stored, from here. Other tools read them too: cosign reads the envelope next to an
image, and the bundle next to files; model_signing reads ``model.sig``.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api.safety import untrusted_json

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PROVENANCE_TYPE = "https://slsa.dev/provenance/v1"
MODEL_SIGNATURE_TYPE = "https://model_signing/signature/v1.0"
COSIGN_SIGNATURE_TYPE = "https://sigstore.dev/cosign/sign/v1"
"""What ``cosign sign`` of version 3 says about an image."""
BUILD_TYPE = "https://finetune.dev/build/finetune/v1"
BUILDER = "https://finetune.dev/operator/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
ENVELOPE_TYPE = "application/vnd.dsse.envelope.v1+json"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
BUNDLE_MARK = "dev.sigstore.bundle.content"
"""Annotation of a bundle in a registry, which names the kind of its content."""
MODEL_SIGNATURE_FILE = "model.sig"
"""Bundle with the statement about the files of a folder, under the name that model_signing uses."""
PROVENANCE_FILE = "provenance.sigstore.json"
"""Bundle with the provenance of a folder."""
FILES = (MODEL_SIGNATURE_FILE, PROVENANCE_FILE)
OF_HUB = (".cache/huggingface", ".gitattributes")
"""What a hub adds to a repository, and its client to the folder of a download. No program that
loads a model reads them."""
KEY_VARIABLE = "FINETUNE_STATEMENT_KEY"
"""Environment variable of the publish pod with the public key of the operator, in PEM format. It is
no field of the request, which an earlier image would reject."""
MANIFEST = "manifest.json"
"""File of a published folder that has the digests of the others."""
LONGEST = 1 << 22
"""Bytes of a bundle that are read; the statements of this project have a few kilobytes."""
MOST_SIGNATURES = 8
"""Signatures of an envelope that are checked."""

Statement = dict[str, Any]


class Malformed(ValueError):
    """A document is no envelope or no statement; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What was signed, and the signatures. Nothing about it is checked yet."""

    payload: bytes
    signatures: tuple[bytes, ...]


def model_statement(
    name: str, files: Mapping[str, str], *, ignored: Collection[str] = FILES
) -> Statement:
    """Return the statement about the files of a folder that model_signing (OpenSSF) verifies.

    name: of the folder. files: SHA-256 (hex) of all its files by path, without signatures.
    ignored: paths that the folder may have besides.
    """
    ordered = sorted(files.items())
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in ordered)).hexdigest()
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": MODEL_SIGNATURE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": sorted(ignored),
            },
            "resources": [
                {"name": path, "algorithm": "sha256", "digest": digest} for path, digest in ordered
            ],
        },
    }


def folder_statement(files: Mapping[str, str], *, on_hub: bool) -> Statement:
    """Return the statement about a published folder. files: with ``MANIFEST``.

    The operator signs its canonical bytes, and the publish stage writes them: they are the same in
    every release.
    """
    ignored = (*FILES, *OF_HUB) if on_hub else FILES
    return model_statement(f"sha256-{files[MANIFEST]}", files, ignored=ignored)


def canonical(statement: Mapping[str, Any]) -> bytes:
    """Return the bytes of a statement: equal statements have equal bytes."""
    return json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()


def signed_bytes(payload: bytes, *, kind: str = PAYLOAD_TYPE) -> bytes:
    """Return the bytes that are signed for a payload (the pre-authentication encoding of DSSE).

    kind: type of the payload. It is signed too, so no signature is valid for two kinds.
    """
    name = kind.encode()
    return b"DSSEv1 %d %s %d %s" % (len(name), name, len(payload), payload)


def envelope(payload: bytes, signature: bytes, *, kind: str = PAYLOAD_TYPE) -> dict[str, Any]:
    """Return a DSSE envelope in the form of its JSON."""
    return {
        "payload": _text(payload),
        "payloadType": kind,
        "signatures": [{"sig": _text(signature)}],
    }


def bundle(envelope: Mapping[str, Any], public_key: bytes) -> dict[str, Any]:
    """Return a Sigstore bundle with an envelope. public_key: in PEM format; only its hash is used.

    The bundle has no time stamp and no entry of a transparency log.
    """
    hint = hashlib.sha256(public_key).hexdigest()
    return {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": hint}},
        "dsseEnvelope": dict(envelope),
    }


def opened(document: bytes, *, kind: str = PAYLOAD_TYPE) -> Envelope:
    """Return the envelope in a document: a bundle, or the envelope itself. Raise Malformed.

    Nothing of the document is in the text of the error: nobody has signed it.
    """
    try:
        parsed = untrusted_json.parse(document)
        parsed = parsed.get("dsseEnvelope", parsed)
        if parsed["payloadType"] != kind:
            raise Malformed(f"its payload is not of the type {kind}")
        if len(parsed["signatures"]) > MOST_SIGNATURES:
            raise Malformed(
                f"it has {len(parsed['signatures'])} signatures; at most {MOST_SIGNATURES} are read"
            )
        return Envelope(
            payload=_bytes(parsed["payload"]),
            signatures=tuple(_bytes(signature["sig"]) for signature in parsed["signatures"]),
        )
    except Malformed:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise Malformed(f"it is no signed statement ({type(error).__name__})") from error


def statement(payload: bytes) -> Statement:
    """Return the statement in a payload whose signature was checked. Raise Malformed."""
    try:
        parsed = untrusted_json.parse(payload)
        kind = parsed["_type"]
        # cosign does not name the image that it signs.
        subjects = [
            (entry.get("name", ""), entry["digest"]["sha256"]) for entry in parsed["subject"]
        ]
        is_valid = isinstance(parsed["predicate"], dict) and isinstance(
            parsed["predicateType"], str
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Malformed(f"its payload is no statement ({error!r})") from error
    texts = all(isinstance(text, str) for subject in subjects for text in subject)
    if kind != STATEMENT_TYPE or not (subjects and texts and is_valid):
        raise Malformed("its payload is no in-toto statement of version 1 with SHA-256 digests")
    assert isinstance(parsed, dict)
    return parsed


def subjects(statement: Statement) -> dict[str, str]:
    """Return the SHA-256 (hex) of each subject of a statement by its name."""
    return {
        subject.get("name", ""): subject["digest"]["sha256"] for subject in statement["subject"]
    }


def files(statement: Statement) -> dict[str, str] | None:
    """Return the SHA-256 (hex) of all files that a model signature lists; None for another kind."""
    if statement["predicateType"] != MODEL_SIGNATURE_TYPE:
        return None
    try:
        listed = statement["predicate"]["resources"]
        digests = {
            resource["name"]: resource["digest"]
            for resource in listed
            if resource["algorithm"] == "sha256"
        }
    except (KeyError, TypeError) as error:
        raise Malformed(f"it has no list of files ({error!r})") from error
    if len(digests) != len(listed):
        raise Malformed("it lists files twice, or with other digests than SHA-256")
    return digests


def ignored(statement: Statement) -> frozenset[str]:
    """Return the files and folders that a model signature leaves out; none if it does not say."""
    if statement["predicateType"] != MODEL_SIGNATURE_TYPE:
        return frozenset()
    try:
        return frozenset(statement["predicate"]["serialization"].get("ignore_paths") or ())
    except (AttributeError, KeyError, TypeError):
        return frozenset()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
