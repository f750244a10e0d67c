"""Sources on S3: downloads, pinned versions, credentials, and errors."""

import shutil
from pathlib import Path

import pytest
from tests.support.trainer import web
from tests.support.trainer.stores import DATA, ROWS, assert_failed, download_all, sha256
from tests.support.trainer.web import Bucket, Certificate
from tests.trainer.conftest import MakeWorkshop

from finetune_trainer.checkpointing import manifest
from finetune_trainer.errors import (
    AccessDenied,
    InvalidSpec,
    ModelNotFound,
    Transient,
)
from finetune_trainer.sources.s3 import S3


def s3(
    bucket: Bucket,
    certificate: Certificate | None,
    path: str,
    keys: dict[str, str] | None,
    **more: str,
) -> S3:
    return S3(
        kind="model",
        source=f"s3://{path}",
        endpoint=bucket.url,
        ca_file=certificate.authority if certificate else None,
        environment={f"MODEL_{name}": value for name, value in (keys or {}).items()} | more,
    )


def test_s3_prefix_and_single_object_are_downloaded(
    bucket: Bucket, certificate: Certificate, tmp_path: Path
) -> None:
    store = s3(bucket, certificate, "tuning/rows", bucket.allowed)
    assert download_all(store, tmp_path / "a") == {
        "README.md": b"not rows",
        "deep/test.jsonl": ROWS,
        "train.jsonl": ROWS,
    }
    one = s3(bucket, certificate, "tuning/rows/train.jsonl", bucket.allowed)
    assert download_all(one, tmp_path / "b") == {"train.jsonl": ROWS}


def test_s3_prefix_is_pinned_by_its_list_of_objects(
    bucket: Bucket, certificate: Certificate, tmp_path: Path
) -> None:
    bucket.put("moving/a", DATA)
    store = s3(bucket, certificate, "tuning/moving", bucket.allowed)
    first = store.pin()
    assert s3(bucket, certificate, "tuning/moving/", bucket.allowed).pin().commit == first.commit
    bucket.put("moving/a", DATA[::-1])
    with pytest.raises(Transient, match=r"a of model s3://tuning/moving changed while it was read"):
        store.download(first, ["a"], tmp_path)
    assert s3(bucket, certificate, "tuning/moving", bucket.allowed).pin().commit != first.commit


def test_s3_download_is_resumed(bucket: Bucket, certificate: Certificate, tmp_path: Path) -> None:
    bucket.put("large/a", DATA)
    store = s3(bucket, certificate, "tuning/large", bucket.allowed)
    found = store.pin()
    # The file contains these bytes only if the download resumes after them.
    (tmp_path / ".a.part").write_bytes(b"#" * 1000)
    assert store.download(found, ["a"], tmp_path) == {"a": sha256(b"#" * 1000 + DATA[1000:])}


def test_s3_object_name_that_leads_out_of_the_folder_is_refused(
    bucket: Bucket, certificate: Certificate, tmp_path: Path
) -> None:
    """Without the prefix, an object name can be an absolute path."""
    elsewhere = tmp_path / "elsewhere"
    bucket.put(f"strange/{elsewhere}", DATA)
    store = s3(bucket, certificate, "tuning/strange", bucket.allowed)
    found = store.pin()
    (tmp_path / "into").mkdir()
    with pytest.raises(InvalidSpec, match=f"the name '{elsewhere}'. This name leads out of"):
        store.download(found, list(found.files), tmp_path / "into")
    assert not elsewhere.exists()


@pytest.mark.parametrize(
    ("path", "key", "error", "said"),
    [
        (
            "tuning/rows",
            "forbidden",
            AccessDenied,
            "model.s3.secretRef is correct and has permission to list",
        ),
        (
            "tuning/rows",
            None,
            AccessDenied,
            "set model.s3.secretRef, or set access.serviceAccountName",
        ),
        ("tuning/other", "allowed", ModelNotFound, "correct model.source"),
        ("other/rows", "allowed", ModelNotFound, "correct model.source"),
    ],
)
def test_s3_refusal_becomes_an_error_of_the_job(
    bucket: Bucket,
    certificate: Certificate,
    path: str,
    key: str | None,
    error: type[Exception],
    said: str,
) -> None:
    keys = getattr(bucket, key) if key else None
    with pytest.raises(error, match=said):
        s3(bucket, certificate, path, keys).pin()


def test_s3_untrusted_certificate_is_refused(bucket: Bucket) -> None:
    with pytest.raises(InvalidSpec, match=r"set model\.caConfigMapRef to a ConfigMap"):
        s3(bucket, None, "tuning/rows", bucket.allowed).pin()


def test_s3_is_read_with_the_cloud_identity_of_the_pod(
    bucket: Bucket, certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variables are those of a pod on EKS whose ServiceAccount has a role."""
    (tmp_path / "token").write_text("a.web.identity")
    identity = {
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/reads",
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
        "AWS_ENDPOINT_URL_STS": bucket.url,
        "AWS_CA_BUNDLE": str(certificate.authority),
        "AWS_REGION": "eu-central-1",
    }
    for name, value in identity.items():
        monkeypatch.setenv(name, value)
    store = s3(bucket, certificate, "tuning/rows/train.jsonl", None, **identity)
    # With authentication on, moto rejects unsigned requests, but a web identity token is exchanged
    # with an unsigned request.
    web.authenticate(bucket.url, certificate, always=False)
    try:
        assert download_all(store, tmp_path / "a") == {"train.jsonl": ROWS}
    finally:
        web.authenticate(bucket.url, certificate, always=True)


def test_prepare_reads_base_and_rows_from_s3(
    make: MakeWorkshop, base: Path, bucket: Bucket, certificate: Certificate, tmp_path: Path
) -> None:
    for path in base.iterdir():
        bucket.put(f"models/tiny/{path.name}", path.read_bytes())
    (tmp_path / "ca").mkdir()
    for kind in ("model", "dataset"):
        shutil.copy(certificate.authority, tmp_path / "ca" / f"{kind}.crt")
    store = {"s3": {"endpoint": bucket.url}}
    workshop = make(
        model={"source": "s3://tuning/models/tiny"} | store,
        dataset={"source": "s3://tuning/rows"} | store,
    )
    keys = {
        f"{kind}_{name}": value
        for kind in ("MODEL", "DATASET")
        for name, value in bucket.allowed.items()
    }
    ended = workshop.run("prepare", FINETUNE_CONFIG_DIR=str(tmp_path), **keys)
    assert ended.code == 0, ended.log
    assert ended.result["artifacts"]["rows"] == 24
    assert bucket.allowed["AWS_SECRET_ACCESS_KEY"] not in ended.log
    found = manifest.read(workshop.work / "base")
    assert found.facts["source"] == "s3://tuning/models/tiny"
    assert len(found.facts["baseCommit"]) == 64
    ended = make(
        model={"source": "s3://tuning/models/tiny"} | store,
        dataset={"source": "s3://tuning/rows"} | store,
    ).run("prepare", FINETUNE_CONFIG_DIR=str(tmp_path))
    assert_failed(ended, 77, "AccessDenied", "dataset s3://tuning/rows", "dataset.s3.secretRef")
