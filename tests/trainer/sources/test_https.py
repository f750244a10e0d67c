"""Sources on web servers: downloads, checksums, retries, and errors."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.support.trainer.hub import SIGNATURE, Hub
from tests.support.trainer.stores import DATA, ROWS, assert_failed, download_all, sha256
from tests.support.trainer.web import Certificate, Web
from tests.trainer.conftest import MakeWorkshop

from finetune_trainer.checkpointing import manifest
from finetune_trainer.errors import (
    AccessDenied,
    DatasetNotFound,
    InvalidSpec,
    Transient,
)
from finetune_trainer.sources import transfer
from finetune_trainer.sources.https import Https


def https(
    site: Web, certificate: Certificate, path: str, data: bytes | None = None, **more: Any
) -> Https:
    options: dict[str, Any] = {"kind": "dataset", "token": None, "ca_file": certificate.authority}
    return Https(
        url=f"{site.url}/{path}",
        sha256=sha256(site.files.get(path, b"") if data is None else data),
        **(options | more),
    )


def test_https_single_file_is_downloaded(
    site: Web, certificate: Certificate, tmp_path: Path
) -> None:
    site.files["some rows.jsonl"] = DATA
    store = https(site, certificate, "some%20rows.jsonl", DATA)
    assert download_all(store, tmp_path / "a") == {"some rows.jsonl": DATA}
    assert store.pin().commit == sha256(DATA)
    site.files["none.jsonl"] = b""
    assert download_all(https(site, certificate, "none.jsonl"), tmp_path / "b") == {
        "none.jsonl": b""
    }


def test_https_sha256sums_list_pins_its_files(
    site: Web, certificate: Certificate, tmp_path: Path
) -> None:
    site.files |= {"m/a.json": b"{}", "m/deep/b.bin": DATA}
    lines = f"{sha256(b'{}')}  ./a.json\n{sha256(DATA)} *deep/b.bin\n"
    site.files["m/SHA256SUMS"] = lines.encode()
    store = https(site, certificate, "m/SHA256SUMS")
    assert download_all(store, tmp_path / "a") == {"a.json": b"{}", "deep/b.bin": DATA}
    site.files["m/a.json"] = b"[]"
    with pytest.raises(Transient, match=r"a\.json of dataset .* is damaged"):
        download_all(store, tmp_path / "b")
    site.files["m/SHA256SUMS"] += b"\n"
    with pytest.raises(InvalidSpec, match=r"but dataset\.sha256 is .* to the new digest"):
        store.pin()


@pytest.mark.parametrize("line", ["../a", "/a", "a/../../b", ""])
def test_https_sha256sums_list_with_other_folders_is_refused(
    site: Web, certificate: Certificate, line: str
) -> None:
    site.files["SHA256SUMS"] = f"{'0' * 64}  {line}\n".encode()
    with pytest.raises(InvalidSpec, match="has the invalid line"):
        https(site, certificate, "SHA256SUMS").pin()


@pytest.mark.parametrize("ranges", [True, False])
def test_interrupted_transfer_is_resumed(
    site: Web, certificate: Certificate, tmp_path: Path, ranges: bool
) -> None:
    site.files["a"], site.ranges = DATA, ranges
    store = https(site, certificate, "a")
    found = store.pin()
    site.cuts = [100_000, 50_000]
    site.requests.clear()
    store.download(found, ["a"], tmp_path)
    assert (tmp_path / "a").read_bytes() == DATA
    asked = [each for _, each in site.requests]
    assert asked[0] is None
    if ranges:
        assert asked[1:] == ["bytes=100000-", "bytes=150000-"]


def test_interrupted_transfer_is_resumed_by_the_next_attempt(
    site: Web, certificate: Certificate, tmp_path: Path
) -> None:
    site.files["a"] = DATA
    store = https(site, certificate, "a")
    found = store.pin()
    site.cuts = [100_000, 0, 0, 0]
    with pytest.raises(
        Transient, match=r"download of a of dataset .* interrupted at 100000 of 300000 bytes"
    ):
        store.download(found, ["a"], tmp_path)
    assert not (tmp_path / "a").exists()
    site.cuts, site.requests = [], []
    store.download(found, ["a"], tmp_path)
    assert site.requests == [("a", "bytes=100000-")]
    assert (tmp_path / "a").read_bytes() == DATA
    site.requests.clear()
    store.download(found, ["a"], tmp_path)
    assert site.requests == []


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_busy_web_server_is_retried_at_the_same_byte(
    site: Web, certificate: Certificate, tmp_path: Path, status: int
) -> None:
    site.files["a"] = DATA
    store = https(site, certificate, "a")
    found = store.pin()
    site.cuts, site.busy = [100_000], [status, 200, status]
    site.requests.clear()
    store.download(found, ["a"], tmp_path)
    asked = [each for _, each in site.requests]
    assert asked == [None, None, "bytes=100000-", "bytes=100000-"]
    assert (tmp_path / "a").read_bytes() == DATA
    (tmp_path / "a").unlink()
    site.answers["a"] = status
    with pytest.raises(
        Transient, match=rf"interrupted at 0 of 300000 .*HTTP {status}\): the next attempt resumes"
    ):
        store.download(found, ["a"], tmp_path)


def test_server_that_always_restarts_ends_after_the_retries(
    site: Web, certificate: Certificate, tmp_path: Path
) -> None:
    site.files["a"], site.ranges = DATA, False
    store = https(site, certificate, "a")
    found = store.pin()
    site.cuts = [20_000, 10_000] * 50
    site.requests.clear()
    with pytest.raises(Transient, match="interrupted at 20000 of 300000 bytes"):
        store.download(found, ["a"], tmp_path)
    assert len(site.requests) == 1 + len(transfer.PAUSES)


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (401, AccessDenied, "set dataset.tokenSecretRef to a Secret with a token"),
        (403, AccessDenied, "HTTP 403"),
        (404, DatasetNotFound, "correct dataset.source"),
        (410, DatasetNotFound, "HTTP 410"),
        (400, InvalidSpec, "correct dataset.source"),
        (429, Transient, "the next attempt retries the download"),
        (503, Transient, "the next attempt retries the download"),
    ],
)
def test_http_status_becomes_an_error_of_the_job(
    site: Web, certificate: Certificate, status: int, error: type[Exception], said: str
) -> None:
    site.answers["a"] = status
    with pytest.raises(error, match=said):
        https(site, certificate, "a").pin()


def test_error_names_the_address_of_a_missing_list_and_of_its_file(
    site: Web, certificate: Certificate
) -> None:
    store = https(site, certificate, "m/SHA256SUMS", b"")
    with pytest.raises(DatasetNotFound, match=rf"^dataset {site.url}/m/SHA256SUMS does not exist"):
        store.pin()
    site.files["m/SHA256SUMS"] = f"{'0' * 64}  a b.json\n".encode()
    with pytest.raises(DatasetNotFound, match=rf"^dataset {site.url}/m/a%20b.json does not exist"):
        https(site, certificate, "m/SHA256SUMS").pin()


def test_https_token_is_sent(site: Web, certificate: Certificate, tmp_path: Path) -> None:
    site.files["a"], site.token = DATA, "secret"
    with pytest.raises(AccessDenied, match="tokenSecretRef is invalid or lacks read access"):
        https(site, certificate, "a", token="other").pin()
    assert download_all(https(site, certificate, "a", token="secret"), tmp_path / "a") == {
        "a": DATA
    }


def test_https_redirect_without_tls_is_refused(
    site: Web, certificate: Certificate, hub: Hub
) -> None:
    site.redirects["a"] = f"{hub.url}/demo/tiny/resolve/main/config.json?Signature={SIGNATURE}"
    hub.requests.clear()
    with pytest.raises(InvalidSpec, match=r"redirected to http://.*json, but only https://"):
        https(site, certificate, "a").pin()
    assert hub.requests == []
    with pytest.raises(
        InvalidSpec, match=r"set dataset\.caConfigMapRef to a ConfigMap with its cert"
    ):
        https(site, certificate, "a", ca_file=None).pin()


def test_unreachable_web_server_is_transient(certificate: Certificate, unused_port: int) -> None:
    gone = Web(url=f"https://127.0.0.1:{unused_port}")
    with pytest.raises(Transient, match="is unreachable"):
        https(gone, certificate, "a").pin()


def test_prepare_reads_base_and_rows_from_a_web_server(
    make: MakeWorkshop, base: Path, site: Web, certificate: Certificate, tmp_path: Path
) -> None:
    files = {path.name: path.read_bytes() for path in base.iterdir()}
    lines = "".join(f"{sha256(data)}  {name}\n" for name, data in files.items())
    site.files = {f"m/{name}": data for name, data in files.items()}
    site.files |= {"m/SHA256SUMS": lines.encode(), "rows.jsonl": ROWS}
    (tmp_path / "ca").mkdir()
    for kind in ("model", "dataset"):
        shutil.copy(certificate.authority, tmp_path / "ca" / f"{kind}.crt")
    workshop = make(
        model={"source": f"{site.url}/m/SHA256SUMS", "sha256": sha256(lines.encode())},
        dataset={"source": f"{site.url}/rows.jsonl", "sha256": sha256(ROWS)},
    )
    ended = workshop.run("prepare", FINETUNE_CONFIG_DIR=str(tmp_path))
    assert ended.code == 0, ended.log
    found = manifest.read(workshop.work / "base")
    assert {entry.name: entry.sha256 for entry in found.files} == {
        name: sha256(data) for name, data in files.items()
    }
    wrong = make(dataset={"source": f"{site.url}/rows.jsonl", "sha256": "0" * 64})
    ended = wrong.run("prepare", FINETUNE_CONFIG_DIR=str(tmp_path))
    assert_failed(ended, 75, "Transient", "rows.jsonl of dataset", "is damaged")
