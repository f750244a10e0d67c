"""A folder with a published model, whose files are compared with signed statements about it.

``manifest.json`` has the digests of all other files, and a statement has its digest. A file that
the statements do not name is an error: a program may load it.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from finetune_api.contracts import attestation
from finetune_api.contracts.attestation import MANIFEST, Statement
from finetune_api.safety import untrusted_file
from finetune_cli.verifying.failures import Code, fail
from finetune_trainer.signatures import statements

READ = 1 << 20
MOST_SHOWN = 5
ADVICE = "do not use the model, and get it from its publisher once more"


def documents(folder: Path) -> dict[str, bytes]:
    """Return the bundles in a folder by name. Raise NotVerified if it has none."""
    found = {}
    for name in attestation.FILES:
        try:
            with untrusted_file.open_regular(folder / name, follow_links=False) as file:
                found[name] = file.read(attestation.LONGEST)
        except FileNotFoundError:
            continue
        except OSError as error:
            fail(Code.NOT_SIGNED, f"{folder / name} cannot be read: {error.strerror}")
    if not found:
        fail(
            Code.NO_STATEMENT,
            f"{folder} has no signed statement ({' or '.join(attestation.FILES)}): the operator "
            "signs a model that a job publishes if its administrator has set a signing key",
        )
    return found


def check(folder: Path, signed: Mapping[str, Statement]) -> int:
    """Compare all files with the statements, and return their number. Raise NotVerified.

    signed: the statements by the name of the file that contains them.
    """
    digests = dict(_digests(folder, ignored=signed))
    for name, statement in signed.items():
        _compare(_expected(folder, name, statement, digests), digests, name)
    return len(digests)


def _expected(
    folder: Path, name: str, statement: Statement, digests: Mapping[str, str]
) -> dict[str, str]:
    """Return the digest of each file that a statement names, directly or in manifest.json."""
    try:
        expected = statements.named_files(statement)
    except attestation.Malformed as error:
        fail(Code.NOT_SIGNED, f"{name} cannot be used: {error}")
    if not expected:
        fail(
            Code.NO_STATEMENT,
            f"{name} is a statement about {next(iter(attestation.subjects(statement)))}, and names "
            "no files: verify this reference instead of a folder",
        )
    if MANIFEST not in expected or attestation.files(statement) is not None:
        return expected
    if MANIFEST not in digests:
        fail(Code.MISSING, f"{MANIFEST} is missing (compared with {name}): {ADVICE}")
    if digests[MANIFEST] != expected[MANIFEST]:
        # The list of files in it means nothing.
        fail(
            Code.CHANGED,
            f"{MANIFEST} is changed since it was signed (compared with {name}): {ADVICE}",
        )
    try:
        content = untrusted_file.read_bytes(folder / MANIFEST, follow_links=False)
        return statements.listed_files(content, expected)
    except (OSError, ValueError) as error:
        fail(Code.CHANGED, f"{MANIFEST} cannot be read ({error}): {ADVICE}")


def _compare(expected: Mapping[str, str], digests: Mapping[str, str], name: str) -> None:
    both = sorted(expected.keys() & digests.keys())
    changed = [each for each in both if expected[each] != digests[each]]
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


def _digests(folder: Path, *, ignored: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield the digest of each file; of anything else, such as a link, a text that is none."""
    for place, folders, files in os.walk(folder, onerror=_raise):
        for each in sorted((*files, *folders)):
            path = Path(place) / each
            name = path.relative_to(folder).as_posix()
            if name in ignored or (each in folders and not path.is_symlink()):
                continue
            yield name, _digest(path)


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    try:
        with untrusted_file.open_regular(path, follow_links=False) as file:
            while chunk := file.read(READ):
                found.update(chunk)
    except untrusted_file.NotAFile:
        return "no regular file"
    return found.hexdigest()


def _raise(error: OSError) -> None:
    raise error


def _names(names: list[str]) -> str:
    shown = ", ".join(ascii(each)[1:-1] for each in names[:MOST_SHOWN])
    return shown if len(names) <= MOST_SHOWN else f"{shown} and {len(names) - MOST_SHOWN} more"
