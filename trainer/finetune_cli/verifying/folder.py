"""A folder with a published model on this machine."""

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from finetune_api.contracts.provenance import attestation
from finetune_api.contracts.provenance.attestation import MANIFEST, Statement
from finetune_api.safety import untrusted_file
from finetune_api.v1alpha1.sources import HF_SOURCE_PREFIX
from finetune_cli.verifying import files
from finetune_cli.verifying.failures import Code, fail

READ = 1 << 20


def documents(folder: Path) -> dict[str, bytes]:
    """Return the bundles in a folder by name. Raise NotVerified if it has none."""
    bundles = {}
    for name in attestation.FILES:
        try:
            with untrusted_file.open_regular(folder / name, follow_links=False) as file:
                bundles[name] = file.read(attestation.LONGEST)
        except FileNotFoundError:
            continue
        except OSError as error:
            fail(Code.NOT_SIGNED, f"{folder / name} cannot be read: {error.strerror}")
    if not bundles:
        files.fail_unsigned(folder)
    return bundles


def check(folder: Path, statements: Mapping[str, Statement]) -> int:
    """Compare all files with the statements, and return their number. Raise NotVerified.

    statements: by the name of the file that contains them.
    """
    listed = _manifest(folder)
    expected = files.expected(statements, listed)
    files.require_own_content(folder.resolve().name, listed)
    of_hub = attestation.OF_HUB if all(map(_is_of_hub, statements.values())) else ()
    digests = dict(_digests(folder, ignored={*statements, *of_hub}))
    files.compare(expected, digests)
    return len(digests)


def _manifest(folder: Path) -> bytes | None:
    try:
        return untrusted_file.read_bytes(folder / MANIFEST, follow_links=False)
    except FileNotFoundError:
        return None
    except untrusted_file.NotAFile:
        return b""


def _is_of_hub(statement: Statement) -> bool:
    """Report whether a statement is about a repository of a hub, which adds files of its own."""
    if attestation.files(statement) is not None:
        return attestation.ignored(statement) >= {*attestation.OF_HUB}
    return next(iter(attestation.subjects(statement))).startswith(HF_SOURCE_PREFIX)


def _digests(folder: Path, *, ignored: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the digest of each file; of anything else, such as a link, a text that is none.

    ignored: names of files and folders.
    """
    for place, folders, names in os.walk(folder, onerror=_raise):
        for entry in sorted((*names, *folders)):
            path = Path(place) / entry
            name = path.relative_to(folder).as_posix()
            if entry in folders and not path.is_symlink():
                continue
            if any(name == other or name.startswith(f"{other}/") for other in ignored):
                continue
            yield name, _digest(path)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with untrusted_file.open_regular(path, follow_links=False) as file:
            while chunk := file.read(READ):
                digest.update(chunk)
    except untrusted_file.NotAFile:
        return "no regular file"
    return digest.hexdigest()


def _raise(error: OSError) -> None:
    raise error
