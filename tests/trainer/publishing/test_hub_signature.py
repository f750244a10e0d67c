"""Signed statements in the repository of a hub: files of the commit that has the model."""

from pathlib import Path
from typing import Any

import pytest
from tests.fakes.model_hub import ModelHub
from tests.support.signing_keys import KEY
from tests.support.trainer import hub_client
from tests.support.trainer.hub_target import REPO, Signing
from tests.support.trainer.publishing import Volume
from tests.support.trainer.web import Certificate
from tests.trainer.publishing.test_attestation import bundle_about
from tests.trainer.publishing.test_hub import (
    SHARD,
    _without_pauses,
    files_at,
    publish,
    target,
)

from finetune_api.contracts.provenance.attestation import FILES, MANIFEST, PROVENANCE_FILE
from finetune_cli import __main__ as ftj
from finetune_cli.verifying.failures import Code
from finetune_operator.provenance import signed

__all__ = ["_without_pauses", "target"]


@pytest.fixture
def signing(volume: Volume, hub: ModelHub, target: dict[str, Any]) -> Signing:
    return Signing(volume, hub, target)


def test_the_first_attempt_only_lists_the_files(signing: Signing, hub: ModelHub) -> None:
    only = signing.listed.only
    assert (only.reference, only.digest, only.sent_bytes) == (None, None, 0)
    assert only.manifest == signing.files[MANIFEST]
    assert SHARD in signing.files
    assert not hub.requests


def test_the_model_and_its_statements_are_one_commit(signing: Signing) -> None:
    done = signing.attest()
    assert done.error is None, done.failure
    found = files_at(signing.repo)
    assert found.keys() == {*signing.files, *FILES}
    assert {name: file.sha256 for name, file in found.items() if name not in FILES} == (
        signing.files
    )
    _, made = signing.repo.commits.values()
    assert done.only.digest == f"sha1:{made.sha}"
    assert signing.repo.tags == {"tiny-1-merged": made.sha}
    assert done.only.attestation is not None
    assert done.only.manifest == signing.files[MANIFEST]
    assert done.lists is None
    again = signing.attest()
    assert (again.error, again.only.digest, again.only.sent_bytes) == (None, done.only.digest, 0)


def test_the_volume_gets_no_signature(signing: Signing) -> None:
    signing.attest()
    work = signing.volume.layout.work
    assert not [path for name in FILES for path in work.rglob(name)]


def test_a_later_statement_moves_the_branch_and_keeps_the_name(signing: Signing) -> None:
    """The facts may have changed since an attempt of which the operator does not know the end."""
    first = signing.attest().only
    digest = f"sha256:{signing.files[MANIFEST]}"
    second = signing.attest(attestation=bundle_about("hf://acme/other", digest)).only
    assert second.error is None
    assert second.digest != first.digest
    assert f"sha1:{signing.repo.branches['main']}" == second.digest
    assert f"sha1:{signing.repo.tags['tiny-1-merged']}" == first.digest


def test_a_statement_is_not_removed_from_a_branch(signing: Signing) -> None:
    """Without a key, the job has only the model, and the commit may be that of another job."""
    commit = signing.attest().only.digest
    unsigned = publish(signing.volume, signing.target)
    assert unsigned.failure[0] == "TargetConflict"
    assert f"sha1:{signing.repo.branches['main']}" == commit


def test_a_changed_list_of_files_is_not_published(signing: Signing, hub: ModelHub) -> None:
    """An earlier attempt has listed others."""
    digest = f"sha256:{'0' * 64}"
    done = signing.attest(attested=digest, attestation=bundle_about(f"hf://{REPO}", digest))
    assert done.failure[0] == "TargetRejected"
    assert "nothing was published" in done.failure[1]
    assert REPO not in hub.repos


def test_a_signature_of_other_files_is_not_published(signing: Signing, hub: ModelHub) -> None:
    others = signing.files | {"config.json": "0" * 64}
    done = signing.attest(model_signature=signed.model_signature(others, KEY, on_hub=True))
    assert done.failure[0] == "TargetRejected"
    assert "has signed other files" in done.failure[1]
    assert REPO not in hub.repos


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (None, 0),
        ("flip", Code.CHANGED),
        ("delete", Code.MISSING),
        ("add", Code.EXTRA),
        ("hidden", Code.EXTRA),
    ],
)
def test_a_download_is_verified(
    signing: Signing,
    hub: ModelHub,
    certificate: Certificate,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: str | None,
    code: int,
) -> None:
    """With what the hub has added to the repository, and its client to the folder."""
    done = signing.attest()
    commit = str(done.only.digest).removeprefix("sha1:")
    folder = hub_client.download(hub, certificate, REPO, commit, tmp_path / "model")
    assert (folder / ".gitattributes").is_file()
    assert (folder / ".cache/huggingface").is_dir()
    match change:
        case "flip":
            data = bytearray((folder / SHARD).read_bytes())
            data[1000] ^= 1
            (folder / SHARD).write_bytes(data)
        case "delete":
            (folder / SHARD).unlink()
        case "add":
            (folder / "extra.py").write_text("")
        case "hidden":
            (folder / ".cache/extra.py").write_text("")
    (tmp_path / "signing.pub").write_bytes(KEY.public_key)
    command = ["verify", str(folder), "--key", str(tmp_path / "signing.pub")]
    for left_out in (None, PROVENANCE_FILE):
        if left_out is not None:
            (folder / left_out).unlink()
        assert ftj.main(command) == code, capsys.readouterr().err
