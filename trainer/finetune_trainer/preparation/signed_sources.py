"""Verifies the signatures that the administrator requires of the sources of a job.

A statement is read when a source is pinned, before its large files are downloaded. It is compared
with the digests of the files that were read, whatever server or volume they come from. An image is
proved by the digest of its manifest; any other source has a statement about its files next to them.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from finetune_api.contracts.job_config import JobConfig
from finetune_api.contracts.provenance import attestation
from finetune_api.contracts.provenance.attestation import MANIFEST, Statement
from finetune_api.contracts.provenance.signatures import RequiredSignature
from finetune_api.policy.signatures import covers, what_of
from finetune_api.safety import untrusted_file
from finetune_api.safety.redaction import one_line
from finetune_api.v1alpha1.sources import Kind
from finetune_api.v1alpha1.training.start_from import START_FROM
from finetune_trainer.errors import SourceNotSigned
from finetune_trainer.runtime.log import log
from finetune_trainer.signatures import statements
from finetune_trainer.sources.repository import Attested, Repository, Store
from finetune_trainer.volume.files import fresh
from finetune_trainer.volume_layout import Layout

NAMES = " or ".join(attestation.FILES)


@dataclass(frozen=True, kw_only=True)
class _Signed:
    """A source with statements that meet each requirement: for each one, what they vouch for.

    That is the SHA-256 (hex) of files by name; None for an image as a whole.
    """

    source: str
    vouched: tuple[tuple[Mapping[str, str] | None, ...], ...]


class Signatures:
    """The requirements of one attempt, and the sources whose statements were read."""

    def __init__(self, required: Sequence[RequiredSignature], layout: Layout) -> None:
        self._required = required
        self._layout = layout
        self._signed: dict[Kind, _Signed] = {}
        self._logged: set[Kind] = set()

    def concern(self, job: JobConfig) -> bool:
        """Report whether a source of a job needs a signature."""
        sources = {"model": job.model.source}
        sources |= {kind: rows.source for kind, rows in job.rows_of_training.items()}
        start = job.training.start_from
        if start is not None and start.source is not None:
            sources[START_FROM] = start.source
        if job.evaluation_dataset is not None:
            sources["evaluation.dataset"] = job.evaluation_dataset.source
        return any(self.cover(kind, source) for kind, source in sources.items())

    def cover(self, kind: Kind, source: str) -> bool:
        """Report whether a source needs a signature."""
        return bool(self._of(kind, source))

    def pinned(self, kind: Kind, source: str, store: Store, repository: Repository) -> None:
        """Read the statements about a pinned source. Raise SourceNotSigned without a valid one."""
        required = self._of(kind, source)
        if not required:
            return
        documents = dict(self._documents(kind, source, store, repository))
        vouched = []
        for signature in required:
            keys = [statements.public_key(key.encode()) for key in signature.keys]
            alternatives, problems = [], []
            for name, document in documents.items():
                try:
                    statement = statements.checked(document, keys, name=name)
                    alternatives.append(self._vouched(kind, store, repository, statement, name))
                except statements.NotSigned as error:
                    problems.append(str(error))
            if not alternatives:
                raise _refusal(kind, source, problems[0])
            vouched.append(tuple(alternatives))
        self._signed[kind] = _Signed(source=source, vouched=tuple(vouched))

    def check(self, kind: Kind, digests: Mapping[str, str]) -> None:
        """Compare the files that were read of a source. Raise SourceNotSigned.

        digests: their SHA-256 (hex) by name.
        """
        signed = self._signed.get(kind)
        if signed is None:
            return
        for alternatives in signed.vouched:
            problems = [_problem(alternative, digests) for alternative in alternatives]
            if None not in problems:
                raise _refusal(kind, signed.source, str(problems[0]))
        if kind not in self._logged:
            self._logged.add(kind)
            log(f"{kind} {signed.source} has the signature that policy.signatures requires")

    def _of(self, kind: Kind, source: str) -> list[RequiredSignature]:
        what = what_of(kind)
        return [
            signature
            for signature in self._required
            if what in signature.what and covers(signature.sources, source)
        ]

    def _documents(
        self, kind: Kind, source: str, store: Store, repository: Repository
    ) -> Iterator[tuple[str, bytes]]:
        """Yield the statements next to a source by their names. Raise SourceNotSigned."""
        if isinstance(store, Attested):
            documents = store.statements(repository)
            if not documents:
                raise _refusal(
                    kind, source, f"the image sha256:{repository.commit} has no signed statement"
                )
            for number, document in enumerate(documents, start=1):
                yield f"signed statement {number}", document
            return
        names = [name for name in attestation.FILES if name in repository.files]
        if not names:
            raise _refusal(
                kind,
                source,
                f"it has no file {NAMES} (a single file has none: name the folder that contains "
                "both)",
            )
        for name in names:
            yield name, self._read(kind, source, store, repository, name)

    def _read(
        self, kind: Kind, source: str, store: Store, repository: Repository, name: str
    ) -> bytes:
        if repository.files[name].size > attestation.LONGEST:
            raise _refusal(kind, source, f"{name} has more than {attestation.LONGEST:,} bytes")
        folder = fresh(self._layout.scratch(f"signature-of-{kind}"))
        try:
            store.download(repository, [name], folder, on_bytes=lambda count: None)
            return untrusted_file.read_bytes(folder / name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _vouched(
        self, kind: Kind, store: Store, repository: Repository, statement: Statement, name: str
    ) -> Mapping[str, str] | None:
        """Return what a statement vouches for. Raise NotSigned if that is something else."""
        if isinstance(store, Attested):
            if not statements.is_about(statement, f"sha256:{repository.commit}"):
                raise statements.NotSigned(
                    f"{name} is not about the image sha256:{repository.commit}"
                )
            return None
        try:
            files = statements.named_files(statement)
            if MANIFEST in files and MANIFEST in repository.files:
                content = self._read(kind, repository.name, store, repository, MANIFEST)
                files = statements.listed_files(content, files)
        except (attestation.Malformed, ValueError) as error:
            raise statements.NotSigned(f"{name} cannot be used: {one_line(error, 200)}") from None
        missing = sorted(files.keys() - repository.files.keys())
        if not files or missing:
            lacks = (
                f"names {_shown(missing)}, which the source lacks" if files else "names no files"
            )
            raise statements.NotSigned(f"{name} {lacks}")
        return files


def _problem(files: Mapping[str, str] | None, digests: Mapping[str, str]) -> str | None:
    """Return why files are not those that a statement vouches for; None if they are."""
    if files is None:
        return None
    used = digests.keys() - set(attestation.FILES)
    if changed := sorted(name for name in used & files.keys() if digests[name] != files[name]):
        return f"{_shown(changed)} differs from the file that was signed"
    if unknown := sorted(used - files.keys()):
        return f"{_shown(unknown)} is not a part of what was signed"
    return None


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return one_line(names[0], 200) + more


def _refusal(kind: Kind, source: str, problem: str) -> SourceNotSigned:
    return SourceNotSigned(
        f"{kind}.source is {source}, which needs a signature according to the chart value "
        f"policy.signatures, but {problem}. Set {kind}.source to content that your administrator "
        "has signed, or ask your administrator to sign this content"
    )
