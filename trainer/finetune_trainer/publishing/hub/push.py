"""Publishes a model as a commit in a repository of a hub.

Large files are sent first, each once: the hub knows them by their SHA-256. One commit then adds
all files, so no branch ever has a part of a model. Files of the branch that the model does not have
are not in the commit; they stay in the history, where nothing is ever deleted.

If the operator signs, the signed statements are files of the same commit. The branch never has the
model without them.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from huggingface_hub import CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from finetune_api.contracts.provenance import attestation
from finetune_api.contracts.provenance.attestation import MODEL_SIGNATURE_FILE, PROVENANCE_FILE
from finetune_api.contracts.publish_targets import HuggingFaceTarget, PublishTargetRequest
from finetune_api.safety.credentials import HUB_TOKEN, of_target
from finetune_trainer.publishing import statement
from finetune_trainer.publishing.content import Content, File
from finetune_trainer.publishing.hub import client as hub_client
from finetune_trainer.publishing.hub import errors as hub_errors
from finetune_trainer.publishing.hub import files as hub_files
from finetune_trainer.publishing.outcome import Outcome
from finetune_trainer.publishing.statement import SignedStatement
from finetune_trainer.publishing.target_errors import TargetConflict, TargetRejected
from finetune_trainer.publishing.transfer import Transfer
from finetune_trainer.sources import credentials

MAIN = "main"
OWN_FILE = ".gitattributes"
"""File that a hub adds to a new repository, and that says which files are large."""
TIMEOUT_SECONDS = 60.0
LARGEST_REGULAR = 32 << 20
"""Bytes of a file that is part of the request for a commit; hubs limit them to less."""


def publish(
    target: PublishTargetRequest,
    content: Content,
    outcome: Outcome,
    transfer: Transfer,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Publish a content, and read it back. ``outcome`` gets the reference.

    Raise TargetError or TrainerError. A commit with the model stays.
    """
    place = target.hugging_face
    assert place is not None
    field = f"publish[{target.name}].huggingFace"
    token = credentials.read(
        of_target(target.name) + HUB_TOKEN,
        what="the token",
        field=f"{field}.tokenSecretRef",
        environment=environment,
    )
    with (
        hub_client.connected(place, token, field=field) as api,
        hub_errors.named(field, place.repo, api.endpoint),
    ):
        signed = None if target.attestation is None else statement.of(target)
        files = (*content.with_manifest, *_signatures(signed, content))
        _Push(api, target, place, files, outcome, transfer).run()
        outcome.attestation = None if signed is None else signed.digest


def _signatures(signed: SignedStatement | None, content: Content) -> Iterator[File]:
    """Yield the files with the signed statements. Raise TargetRejected for another content."""
    if signed is None:
        return
    if signed.subject != f"sha256:{content.digest}":
        raise TargetRejected(
            f"the operator has signed the list of files {signed.subject}, and the volume has "
            f"sha256:{content.digest}, so nothing was published: remove the target, and add it "
            "again under another name"
        )
    yield File.document(PROVENANCE_FILE, signed.bundle)
    if signed.model_signature is not None:
        bundle = statement.model_bundle(signed, content.manifest, on_hub=True)
        yield File.document(MODEL_SIGNATURE_FILE, bundle)


class _Push:
    """The publication of some files on one branch."""

    def __init__(
        self,
        api: HfApi,
        target: PublishTargetRequest,
        place: HuggingFaceTarget,
        files: Iterable[File],
        outcome: Outcome,
        transfer: Transfer,
    ) -> None:
        self._api = api
        self._target = target
        self._repo, self._branch = place.repo, place.branch
        self._private = place.private
        self._outcome = outcome
        self._transfer = transfer
        self._files = {file.name: file for file in files}
        self._field = f"publish[{target.name}].huggingFace"

    def run(self) -> None:
        self._ensure_repository()
        version = self._target.version
        named = self._at(version)
        # The name keeps the statement with which it was assigned.
        if named is not None and (difference := self._difference(named, but=attestation.FILES)):
            raise TargetConflict(
                f"the tag {version} of {self._repo} exists with another content ({difference}), "
                "and this name is never changed: delete this tag at the hub, or publish to another "
                "repository"
            )
        head = self._at(self._branch)
        if head is None:
            self._api.create_branch(self._repo, branch=self._branch)
            head = self._at(self._branch)
            if head is None:
                raise TargetRejected(
                    f"the hub created no branch {self._branch} of {self._repo}: check the "
                    "repository at the hub"
                )
        if self._difference(head):
            self._require_movable(head)
            commit = self._commit(head)
        else:
            commit = head.sha
            self._transfer.stored(sum(file.size for file in self._files.values()))
        self._outcome.completed(f"hf://{self._repo}@{commit}", f"sha1:{commit}")
        self._read_back(commit)
        if named is None:
            self._api.create_tag(self._repo, tag=version, revision=commit)

    def _ensure_repository(self) -> None:
        """Create the repository unless it exists. Raise TargetConflict if it must be private."""
        repository = self._repository()
        if repository is None:
            self._api.create_repo(self._repo, private=self._private, exist_ok=True)
            repository = self._api.model_info(self._repo, timeout=TIMEOUT_SECONDS)
        if self._private and not repository.private:
            raise TargetConflict(
                f"the repository {self._repo} is public, and {self._field}.private is true, so "
                "nothing was published: make the repository private at the hub, choose another "
                f"repository, or set {self._field}.private to false"
            )

    def _repository(self) -> Any:
        """Return the repository; None if it does not exist."""
        try:
            return self._api.model_info(self._repo, timeout=TIMEOUT_SECONDS)
        except RepositoryNotFoundError as error:
            if hub_errors.status_of(error) != 404:
                raise
            return None

    def _at(self, revision: str) -> Any:
        """Return the commit to which a name refers, with its files; None if there is none."""
        try:
            return self._api.model_info(
                self._repo, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS
            )
        except RevisionNotFoundError:
            return None

    def _difference(self, commit: Any, *, but: Collection[str] = ()) -> str | None:
        """Return how the files of a commit differ from the model, or None.

        but: names of files that are not compared.
        """
        present = {sibling.rfilename: sibling for sibling in commit.siblings or ()}
        if further := sorted(present.keys() - self._files.keys() - {OWN_FILE, *but}):
            return f"it also has {further[0]}"
        for name, file in self._files.items():
            if name in but:
                continue
            if name not in present:
                return f"it has no {name}"
            if not _is_same(present[name], file):
                return f"{name} differs"
        return None

    def _require_movable(self, head: Any) -> None:
        """Raise TargetConflict if the branch must not move from its present commit."""
        names = {sibling.rfilename for sibling in head.siblings or ()} - {OWN_FILE}
        if not names or f"sha1:{head.sha}" in self._target.own or self._target.overwrite:
            return
        # An attempt that was not reported may have committed the model, with an earlier statement.
        statements = [name for name in attestation.FILES if name in self._files]
        if self._difference(head, but=statements) is None:
            return
        if self._branch != MAIN:
            main = self._at(MAIN)
            if main is not None and main.sha == head.sha:
                # A branch that was only created: all that it has is on the main branch, too.
                return
        raise TargetConflict(
            f"the latest commit {head.sha[:12]} of the branch {self._branch} of {self._repo} has "
            "files that this job has not published, so the branch was not moved: choose another "
            f"branch in {self._field}.branch, or set publish[{self._target.name}].overwrite to true"
        )

    def _commit(self, head: Any) -> str:
        """Send all files that the hub does not have, and commit them on top of ``head``."""
        operations: list[Any] = []
        regular = []
        for file in self._files.values():
            operation, stream = hub_files.addition(file, self._transfer)
            try:
                # One file at a time, so that the process can end after each.
                self._api.preupload_lfs_files(
                    self._repo, additions=[operation], revision=self._branch, num_threads=1
                )
            finally:
                self._transfer.sent += stream.taken
                stream.release()
            self._transfer.stored(file.size)
            self._transfer.check()
            operations.append(operation)
            if not operation._is_uploaded:
                self._require_small(file)
                regular.append(file.size)
        kept = {*self._files, OWN_FILE}
        for sibling in head.siblings or ():
            if sibling.rfilename not in kept:
                operations.append(CommitOperationDelete(path_in_repo=sibling.rfilename))
        commit = self._api.create_commit(
            self._repo,
            operations=operations,
            commit_message=f"Publish {self._target.version}",
            commit_description="\n".join(
                f"{name}: {value}" for name, value in sorted(self._target.annotations.items())
            ),
            revision=self._branch,
            parent_commit=head.sha,
            num_threads=1,
        )
        self._transfer.sent += sum(regular)
        return str(commit.oid)

    def _require_small(self, file: File) -> None:
        """Raise TargetRejected if a file is too large for a request with all such files."""
        if file.size > LARGEST_REGULAR:
            raise TargetRejected(
                f"the hub does not store {file.name} ({file.size:,} bytes) of {self._repo} in Git "
                "LFS: check the .gitattributes file of the repository"
            )

    def _read_back(self, commit: str) -> None:
        """Compare the commit with the model. Raise TargetRejected if it has other files."""
        committed = self._at(commit)
        difference = "it does not exist" if committed is None else self._difference(committed)
        if difference is not None:
            raise TargetRejected(
                f"the commit {commit} of {self._repo} has other files than were sent "
                f"({difference}): check the storage of the hub, and whether a .gitignore file in "
                "the repository excludes the file"
            )
        self._transfer.read_back(sum(file.size for file in self._files.values()))


def _is_same(present: Any, file: File) -> bool:
    """Report whether a file of a commit has this content: by its SHA-256, or by that of Git."""
    if present.lfs is not None:
        return (present.lfs.size, present.lfs.sha256) == (file.size, file.sha256)
    return bool(present.size == file.size and present.blob_id == hub_files.git_digest(file))
