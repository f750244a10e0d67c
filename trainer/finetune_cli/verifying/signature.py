"""Statements that the key of the operator has signed. Only these are ever interpreted."""

from pathlib import Path

from finetune_api.contracts.provenance.attestation import Statement
from finetune_api.safety import untrusted_file
from finetune_cli.errors import CommandFailed
from finetune_cli.verifying.failures import Code, fail
from finetune_trainer.signatures import statements
from finetune_trainer.signatures.statements import PublicKey


def public_key(path: Path) -> PublicKey:
    """Return the public key in a file. Raise CommandFailed."""
    try:
        return statements.public_key(untrusted_file.read_bytes(path))
    except OSError as error:
        raise CommandFailed(f"--key {path}: {error.strerror}: name a file") from error
    except statements.InvalidKey as error:
        raise CommandFailed(
            f"--key {path} {error}: get the public key of the operator from its administrator, who "
            "finds the command in the notes of the chart"
        ) from None


def checked(document: bytes, key: PublicKey, *, name: str) -> Statement:
    """Return the statement in a bundle or an envelope that the key has signed.

    name: of the document, for errors. Raise NotVerified.
    """
    try:
        return statements.checked(document, [key], name=name)
    except statements.NotSigned as error:
        fail(
            Code.NOT_SIGNED,
            f"{error}. Do not use the model, or compare the key with the one of the administrator",
        )
