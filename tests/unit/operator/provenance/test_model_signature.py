"""The signature of the files of a folder: always the same bytes, which model_signing accepts."""

import json
from pathlib import Path

import pytest
from tests.support.published_folder import Published, stored_signature
from tests.support.signing_keys import CONSTANT_KEY

from finetune_api.contracts.provenance import attestation
from finetune_operator.provenance import signed
from finetune_trainer.signatures import statements

GOLDEN = Path(__file__).parent / "golden" / "model.sig"


@pytest.fixture
def folder(tmp_path: Path) -> Published:
    (tmp_path / "model").mkdir()
    return Published(tmp_path / "model", ())


def test_the_signature_is_the_golden_one(folder: Published) -> None:
    """The operator and the trainer image of an earlier release must make the same statement.

    The conformance test of model_signing verifies the golden file. It changes only together with
    the version of the contract between operator and trainer.
    """
    assert stored_signature(folder) == GOLDEN.read_bytes()


def test_the_signature_is_about_all_files(folder: Published) -> None:
    key = statements.public_key(CONSTANT_KEY.public_key)
    statement = statements.checked(GOLDEN.read_bytes(), [key], name="model.sig")
    assert attestation.files(statement) == folder.digests()
    (subject,) = statement["subject"]
    assert subject["name"] == f"sha256-{folder.digests()['manifest.json']}"


def test_order_of_the_files_does_not_matter(folder: Published) -> None:
    files = folder.digests()
    turned = dict(sorted(files.items(), reverse=True))
    made = [signed.model_signature(each, CONSTANT_KEY) for each in (files, turned)]
    assert made[0] == made[1]
    assert json.loads(GOLDEN.read_bytes())["dsseEnvelope"]["signatures"] == [
        {"sig": made[0].signature}
    ]
