"""A folder with a published model, as ``ftj verify`` reads it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tests.support.model_signature import model_signature
from tests.support.published_facts import facts
from tests.support.signing_keys import CONSTANT_KEY, KEY

from finetune_api.contracts.provenance import attestation
from finetune_cli import __main__ as ftj
from finetune_operator.provenance import signed
from finetune_operator.provenance.statement import statement
from finetune_operator.signing import SigningKey
from finetune_trainer.checkpointing import manifest
from finetune_trainer.publishing.statement import SignedStatement, model_bundle

CONTENT = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": bytes(range(256)) * 40,
    "tokenizer/vocab.txt": b"a\nb\n",
}

Shown = tuple[int, str, str]


class Published:
    """A folder as an S3 target holds it: files, manifest.json, and the chosen statements."""

    def __init__(
        self, folder: Path, kinds: tuple[str, ...], content: Mapping[str, bytes] = CONTENT
    ) -> None:
        self.folder = folder
        self.key = folder.parent / "signing.pub"
        self.key.write_bytes(KEY.public_key)
        for name, data in content.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        entries = tuple(
            manifest.Entry(name=name, size=len(data), sha256=sha256(data).hexdigest())
            for name, data in sorted(content.items())
        )
        document = manifest.as_json(
            manifest.Manifest(kind="adapter", key="k", files=entries, facts={})
        )
        (folder / "manifest.json").write_text(json.dumps(document))
        if "model.sig" in kinds:
            signature = model_signature("support", self.digests(), KEY)
            (folder / "model.sig").write_text(json.dumps(signature))
        if "provenance.sigstore.json" in kinds:
            self.sign(self.statement())

    def digests(self) -> dict[str, str]:
        return {
            path.relative_to(self.folder).as_posix(): sha256(path.read_bytes()).hexdigest()
            for path in self.folder.rglob("*")
            if path.is_file() and path.name not in attestation.FILES
        }

    def statement(self, *, files: bool = False) -> dict[str, Any]:
        found, digests = facts("bucket"), self.digests()
        publication = found.publication.model_copy(
            update={"digest": f"sha256:{digests['manifest.json']}"}
        )
        about = statement(replace(found, publication=publication))
        if files:
            (subject, _) = about["subject"]
            listed = [{"name": name, "digest": {"sha256": each}} for name, each in digests.items()]
            about["subject"] = [subject, *listed]
        return about

    def sign(self, statement: dict[str, Any], key: SigningKey = KEY) -> None:
        text = json.dumps(signed.bundle(statement, key))
        (self.folder / "provenance.sigstore.json").write_text(text)

    def verify(self, capsys: pytest.CaptureFixture[str], *options: str) -> Shown:
        code = ftj.main(["verify", str(self.folder), "--key", str(self.key), *options])
        return code, *capsys.readouterr()


def stored_signature(made: Published) -> bytes:
    """Return ``model.sig`` as the operator and the publish stage make it, with a constant key."""
    provenance = signed.bundle(made.statement(), CONSTANT_KEY)
    files = made.digests()
    statement = SignedStatement(
        subject=f"sha256:{files[attestation.MANIFEST]}",
        bundle=json.dumps(provenance).encode(),
        envelope=b"",
        predicate_type=attestation.PROVENANCE_TYPE,
        digest="",
        model_signature=signed.model_signature(files, CONSTANT_KEY),
    )
    return model_bundle(statement, (made.folder / attestation.MANIFEST).read_bytes())
