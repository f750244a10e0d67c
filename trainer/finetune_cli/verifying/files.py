"""The files that signed statements name, compared with those of a folder, wherever it is.

``manifest.json`` has the digests of all other files, and a statement has its digest. A file that
the statements do not name is an error: a program may load it.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import NoReturn

from finetune_api.contracts.provenance import attestation
from finetune_api.contracts.provenance.attestation import MANIFEST, Statement
from finetune_cli.verifying.failures import Code, fail
from finetune_trainer.signatures import statements

MOST_SHOWN = 5
ADVICE = "do not use the model, and get it from its publisher once more"

_OF_CONTENT = re.compile(r"sha256-([0-9a-f]{64})")
"""Name of a folder that is published in a bucket: the digest of its manifest.json."""

Digests = dict[str, str]
"""SHA-256 (hex) of each file by its name."""


def fail_unsigned(place: object) -> NoReturn:
    """Raise the failure for a folder without a statement."""
    fail(
        Code.NO_STATEMENT,
        f"{place} has no signed statement ({' or '.join(attestation.FILES)}): the operator "
        "signs a model that a job publishes if its administrator has set a signing key",
    )


def expected(signed: Mapping[str, Statement], listed: bytes | None) -> dict[str, Digests]:
    """Return the digests that each statement names, directly or in manifest.json.

    signed: the statements by the name of the file that contains them. listed: the content of
    manifest.json, None if it is missing. Raise NotVerified.
    """
    return {name: _expected(name, statement, listed) for name, statement in signed.items()}


def require_own_content(folder: str, listed: bytes | None) -> None:
    """Require the content whose digest a folder is named by, if it is. Raise NotVerified.

    The key signs the models of all jobs, so whoever may write to the folder could replace the model
    by another signed one. listed: the content of manifest.json, None if it is missing.
    """
    named = _OF_CONTENT.fullmatch(folder)
    if named is None or listed is None or hashlib.sha256(listed).hexdigest() == named[1]:
        return
    fail(
        Code.NOT_SIGNED,
        f"{folder} contains another signed model than the one whose {MANIFEST} has this digest: "
        f"{ADVICE}",
    )


def compare(expected: Mapping[str, Digests], actual: Mapping[str, str]) -> None:
    """Compare all files with each statement. Raise NotVerified.

    actual: the digest of each file, and a text that is none for anything else, such as a link.
    """
    for name, digests in expected.items():
        _compare(digests, actual, name)


def _expected(name: str, statement: Statement, listed: bytes | None) -> Digests:
    try:
        named = statements.named_files(statement)
    except attestation.Malformed as error:
        fail(Code.NOT_SIGNED, f"{name} cannot be used: {error}")
    if not named:
        fail(
            Code.NO_STATEMENT,
            f"{name} is a statement about {next(iter(attestation.subjects(statement)))}, and names "
            "no files: verify this reference instead of a folder",
        )
    if MANIFEST not in named or attestation.files(statement) is not None:
        return named
    if listed is None:
        fail(Code.MISSING, f"{MANIFEST} is missing (compared with {name}): {ADVICE}")
    if hashlib.sha256(listed).hexdigest() != named[MANIFEST]:
        # The list of files in it means nothing.
        fail(
            Code.CHANGED,
            f"{MANIFEST} is changed since it was signed (compared with {name}): {ADVICE}",
        )
    try:
        return statements.listed_files(listed, named)
    except ValueError as error:
        fail(Code.CHANGED, f"{MANIFEST} cannot be read ({error}): {ADVICE}")


def _compare(expected: Mapping[str, str], digests: Mapping[str, str], name: str) -> None:
    both = sorted(expected.keys() & digests.keys())
    changed = [file for file in both if expected[file] != digests[file]]
    findings = (
        (Code.CHANGED, changed, "changed since it was signed"),
        (Code.MISSING, sorted(expected.keys() - digests.keys()), "missing"),
        (Code.EXTRA, sorted(digests.keys() - expected.keys()), "not part of the signed model"),
    )
    problems = [
        (code, f"{_names(names)} {'is' if len(names) == 1 else 'are'} {text}")
        for code, names, text in findings
        if names
    ]
    if problems:
        reasons = "; ".join(text for _, text in problems)
        fail(problems[0][0], f"{reasons} (compared with {name}): {ADVICE}")


def _names(names: list[str]) -> str:
    shown = ", ".join(ascii(name)[1:-1] for name in names[:MOST_SHOWN])
    return shown if len(names) <= MOST_SHOWN else f"{shown} and {len(names) - MOST_SHOWN} more"
