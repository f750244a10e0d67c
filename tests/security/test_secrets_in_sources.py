"""A job author names any key of any Secret as a source's credential; prepare does not publish it.

Each case runs the real ``prepare`` command as a process against a real HTTP server. The result and
the log, tracebacks included, must not contain any fragment of the value.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.security.echo import Echo, echoing
from tests.support.attacks.credentials import EMPTY, TOKEN, UNUSABLE, USABLE, leaks
from tests.support.trainer import tiny, web
from tests.support.trainer.web import Certificate
from tests.support.trainer.workshop import Ended, Server, Workshop
from tests.support.variants import variants

pytestmark = [
    pytest.mark.finding(1, "a Secret's content is published"),
    # The libraries under the trainer warn about each other.
    pytest.mark.filterwarnings("default"),
]
DIGEST = hashlib.sha256(b"").hexdigest()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return web.certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def secure(own: Certificate) -> Iterator[str]:
    with echoing(own) as url:
        yield url


CREDENTIALS = {
    "hub model": ("model", "hf", "HF_TOKEN", "model.tokenSecretRef"),
    "hub dataset": ("dataset", "hf", "HF_TOKEN", "dataset.tokenSecretRef"),
    "hub evaluation": ("evaluation", "hf", "HF_TOKEN", "evaluation.dataset.tokenSecretRef"),
    "https model": ("model", "https", "HTTPS_TOKEN", "model.tokenSecretRef"),
    "https dataset": ("dataset", "https", "HTTPS_TOKEN", "dataset.tokenSecretRef"),
    "s3 key": ("dataset", "s3", "AWS_ACCESS_KEY_ID", "dataset.s3.secretRef"),
    "s3 secret": ("dataset", "s3", "AWS_SECRET_ACCESS_KEY", "dataset.s3.secretRef"),
    "s3 session": ("dataset", "s3", "AWS_SESSION_TOKEN", "dataset.s3.secretRef"),
    "s3 model": ("model", "s3", "AWS_SECRET_ACCESS_KEY", "model.s3.secretRef"),
}
PREFIXES = {"model": "MODEL", "dataset": "DATASET", "evaluation": "EVALUATION_DATASET"}


class Tenant:
    """A job author who chooses the source and the Secret of one part of a job."""

    def __init__(
        self, trainers: dict[str, Server], own: Certificate, secure: str, folder: Path
    ) -> None:
        self._trainers = trainers
        self._own = own
        self._secure = secure
        self._folder = folder

    def prepare(self, credential: str, value: str) -> Ended:
        """Run ``prepare`` with the value as a credential of a source that echoes it."""
        part, scheme, variable, _ = CREDENTIALS[credential]
        rows = self._folder / "dataset"
        rows.mkdir()
        (rows / "rows.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in tiny.rows(24)), encoding="utf-8"
        )
        (self._folder / "ca").mkdir()
        for kind in ("model", "dataset", "evaluation.dataset"):
            shutil.copy(self._own.authority, self._folder / "ca" / f"{kind}.crt")
        # The other parts are read before the attack, without any server.
        changes: dict[str, Any] = {"dataset": {"source": "configmap://rows/rows.jsonl"}}
        if part == "evaluation":
            changes[part] = {"dataset": {"format": "alpaca"} | self._source(part, scheme)}
        else:
            changes[part] = self._source(part, scheme)
        job = tiny.job("hf://demo/tiny", "hf://demo/rows", **changes)
        workshop = Workshop(self._trainers, self._folder, self._folder / "work", job)
        prefix = PREFIXES[part]
        others = {
            f"{prefix}_{name}": f"AKIDEXAMPLE{number}"
            for number, name in enumerate(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
            if scheme == "s3"
        }
        return workshop.run(
            "prepare",
            FINETUNE_CONFIG_DIR=str(self._folder),
            AWS_EC2_METADATA_DISABLED="true",
            **others | {f"{prefix}_{variable}": value},
        )

    def _source(self, part: str, scheme: str) -> dict[str, Any]:
        if scheme == "hf":
            return {"source": f"hf://demo/{part}"}
        if scheme == "s3":
            return {"source": "s3://tuning/rows", "s3": {"endpoint": self._secure}}
        name = "SHA256SUMS" if part == "model" else "rows.jsonl"
        return {"source": f"{self._secure}/{name}", "sha256": DIGEST}


@pytest.fixture
def tenant(trainers: dict[str, Server], own: Certificate, secure: str, tmp_path: Path) -> Tenant:
    Echo.seen.clear()
    Echo.status = 401
    return Tenant(trainers, own, secure, tmp_path)


def published(ended: Ended) -> str:
    return (
        f"{json.dumps(ended.result)}\n{json.dumps(ended.result, ensure_ascii=False)}\n{ended.log}"
    )


UNSENT = [(credential, shape) for credential in CREDENTIALS for shape in UNUSABLE | EMPTY]


@pytest.mark.parametrize(
    ("credential", "shape"),
    variants(UNSENT, kept=[each for each in UNSENT if "hub model" in each or "PEM" in each]),
)
def test_unusable_credential_ends_prepare_before_it_is_sent(
    tenant: Tenant, credential: str, shape: str
) -> None:
    value = (UNUSABLE | EMPTY)[shape]
    ended = tenant.prepare(credential, value)
    assert (ended.code, ended.result["reason"]) == (77, "AccessDenied"), ended.log
    assert f"in {CREDENTIALS[credential][3]} " in ended.message
    assert "Traceback" not in ended.log
    assert leaks(published(ended), value) == []
    assert not any(sent.strip() for sent in Echo.seen)


REFUSED = [(credential, shape, 401) for credential in CREDENTIALS for shape in USABLE]
FAILED = [
    (credential, "trailing newline", 500)
    for credential, (_, scheme, _, _) in CREDENTIALS.items()
    if scheme != "s3"
]
"""The S3 client retries for seconds, and takes the same path to the message as for 401."""


KEPT = [each for each in REFUSED if "hub model" in each or "trailing newline" in each]


@pytest.mark.parametrize(
    ("credential", "shape", "status"), variants([*REFUSED, *FAILED], kept=[*KEPT, *FAILED])
)
def test_credential_that_the_server_echoes_is_not_published(
    tenant: Tenant, credential: str, shape: str, status: int
) -> None:
    """A malicious server returns the token in its status line, headers, redirects and body."""
    Echo.status = status
    ended = tenant.prepare(credential, USABLE[shape])
    assert ended.code in (66, 75, 77), ended.log
    assert leaks(published(ended), USABLE[shape]) == []
    sent = [each for each in Echo.seen if each.strip()]
    assert sent
    if CREDENTIALS[credential][2] != "AWS_SECRET_ACCESS_KEY":
        assert all(TOKEN in each for each in sent), "the token is sent without white space"
