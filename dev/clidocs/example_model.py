"""The files of a trained model: on the volume of a revision, and as a published, signed folder."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any
from unittest import mock

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from clidocs.example_jobs import PRESENT, VELMORA, Object
from finetune_api.contracts.provenance import attestation
from finetune_trainer.checkpointing import manifest

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": bytes(1 << 20),
    "tokenizer.json": b"{}",
}
CLAIM = {"metadata": {"name": f"velmora-{PRESENT}"}}
RUNNING = {"status": {"phase": "Running"}}
NOTHING: dict[str, Any] = {"items": []}
BUILD = "5e8a1f00"


class Kubectl:
    """kubectl, with a copy pod that has the model."""

    def get(self, kind: str, *_: str) -> Any:
        """Return an object or a list."""
        match kind:
            case "finetunejobs.finetune.dev":
                return _job()
            case "persistentvolumeclaims":
                return {"items": [CLAIM]}
            case "pod":
                return RUNNING
        return NOTHING

    def run(self, *words: str, stdin: str | None = None) -> str:
        """Return the manifest of the model, which is the only file that is read alone."""
        return _manifest() if "cat" in words else ""

    @contextmanager
    def streamed(self, *_: str) -> Iterator[IO[bytes]]:
        """Yield an archive of the files."""
        written = io.BytesIO()
        with tarfile.open(fileobj=written, mode="w") as archive:
            for name, content in FILES.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        written.seek(0)
        yield written


@contextmanager
def copied_from() -> Iterator[None]:
    """Copy from this volume within the block, at a fixed time and at a fixed speed."""
    clock = itertools.count(0.0, 0.5)
    module = "finetune_cli.copying"
    with ExitStack() as stack:
        for target, replacement in (
            (f"{module}.copy._kubectl", lambda *_: Kubectl()),
            (f"{module}.copy.secrets", SimpleNamespace(token_hex=lambda _: "3fa9c1d2")),
            (f"{module}.progress.time", SimpleNamespace(monotonic=lambda: next(clock))),
            (
                "finetune_trainer.runtime.log.time",
                SimpleNamespace(strftime=lambda *_: "09:30:00", gmtime=lambda: None),
            ),
        ):
            stack.enter_context(mock.patch(target, replacement))
        yield


def publish(folder: Path) -> None:
    """Write the published folder ``velmora`` with its signature, and the public key."""
    model = folder / "velmora"
    model.mkdir()
    for name, content in {**FILES, "manifest.json": _manifest().encode()}.items():
        (model / name).write_bytes(content)
    digests = {path.name: sha256(path.read_bytes()).hexdigest() for path in model.iterdir()}
    # Not a secret: the key of an example.
    key = ec.derive_private_key(29, ec.SECP256R1())
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    payload = attestation.canonical(attestation.model_statement("velmora", digests))
    signature = key.sign(attestation.signed_bytes(payload), ec.ECDSA(hashes.SHA256()))
    bundle = attestation.bundle(attestation.envelope(payload, signature), public)
    (model / "model.sig").write_text(json.dumps(bundle), encoding="utf-8")
    (folder / "signing.pub").write_bytes(public)


def _job() -> Object:
    """Return the job velmora with the digests that the ledger has of its model."""
    merged = {"mergedManifest": sha256(_manifest().encode()).hexdigest(), "build": BUILD}
    merge = {"stage": "merge", "attempt": 1, "outcome": "Completed", **merged}
    revision = {"revision": PRESENT, "stages": [merge]}
    status = {"revision": PRESENT, "build": BUILD, "revisions": [revision]}
    return {"metadata": VELMORA["metadata"], "status": status}


def _manifest() -> str:
    entries = tuple(
        manifest.Entry(name=name, size=len(content), sha256=sha256(content).hexdigest())
        for name, content in FILES.items()
    )
    listing = manifest.Manifest(kind="merged", key=PRESENT, files=entries, facts={})
    return json.dumps(manifest.as_json(listing))
