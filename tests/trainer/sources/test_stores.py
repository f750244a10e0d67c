"""Sources other than a hub (claims, web servers, S3) and the base cache."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import constants
from tests.trainer.conftest import MakeWorkshop
from tests.trainer.support import tiny, web
from tests.trainer.support.hub import SIGNATURE, Hub, serving
from tests.trainer.support.web import Bucket, Certificate, Web
from tests.trainer.support.workshop import Ended

from finetune_trainer.checkpointing import manifest
from finetune_trainer.errors import (
    AccessDenied,
    DatasetNotFound,
    InvalidSpec,
    ModelNotFound,
    Transient,
)
from finetune_trainer.sources import cache, transfer
from finetune_trainer.sources.folder import Folder
from finetune_trainer.sources.https import Https
from finetune_trainer.sources.hub import Hub as HubStore
from finetune_trainer.sources.repository import RemoteFile, Repository, brief
from finetune_trainer.sources.s3 import S3

DATA = os.urandom(300_000)
ROWS = "".join(json.dumps(row) + "\n" for row in tiny.rows(24)).encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def refused(ended: Ended, code: int, reason: str, *said: str) -> None:
    assert (ended.code, ended.result["reason"]) == (code, reason), ended.log
    for each in said:
        assert each in ended.message


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return web.certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def _server(own: Certificate) -> Iterator[Web]:
    with web.web(own) as found:
        yield found


@pytest.fixture
def site(_server: Web) -> Web:
    """The server, without what an earlier test left there."""
    fresh = Web(url=_server.url)
    for name, value in vars(fresh).items():
        setattr(_server, name, value)
    return _server


@pytest.fixture(scope="module")
def bucket(own: Certificate) -> Iterator[Bucket]:
    with web.s3(own) as found:
        found.put("rows/train.jsonl", ROWS)
        found.put("rows/README.md", b"not rows")
        found.put("rows/deep/test.jsonl", ROWS)
        yield found


@pytest.fixture(scope="module")
def base(repositories: dict[str, str], hub: Hub) -> Path:
    """The folder of the base that most tests train."""
    return hub.repos["models/demo/tiny"].folder


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PAUSES", (0.0, 0.0))


def https(site: Web, own: Certificate, path: str, data: bytes | None = None, **more: Any) -> Https:
    options: dict[str, Any] = {"kind": "dataset", "token": None, "ca_file": own.authority}
    return Https(
        url=f"{site.url}/{path}",
        sha256=sha256(site.files.get(path, b"") if data is None else data),
        **(options | more),
    )


def fetched(store: Any, into: Path) -> dict[str, bytes]:
    """Bring all files of a store; return them, having compared the digests."""
    into.mkdir(exist_ok=True)
    seen: list[int] = []
    found = store.pin()
    digests = store.download(found, list(found.files), into, on_bytes=seen.append)
    files = {name: (into / name).read_bytes() for name in found.files}
    assert digests == {name: sha256(data) for name, data in files.items()}
    assert seen[-1] == sum(map(len, files.values())) == found.size_of(files)
    return files


def test_https_single_file_is_downloaded(site: Web, own: Certificate, tmp_path: Path) -> None:
    site.files["some rows.jsonl"] = DATA
    store = https(site, own, "some%20rows.jsonl", DATA)
    assert fetched(store, tmp_path / "a") == {"some rows.jsonl": DATA}
    assert store.pin().commit == sha256(DATA)
    site.files["none.jsonl"] = b""
    assert fetched(https(site, own, "none.jsonl"), tmp_path / "b") == {"none.jsonl": b""}


def test_https_sha256sums_list_pins_its_files(site: Web, own: Certificate, tmp_path: Path) -> None:
    site.files |= {"m/a.json": b"{}", "m/deep/b.bin": DATA}
    lines = f"{sha256(b'{}')}  ./a.json\n{sha256(DATA)} *deep/b.bin\n"
    site.files["m/SHA256SUMS"] = lines.encode()
    store = https(site, own, "m/SHA256SUMS")
    assert fetched(store, tmp_path / "a") == {"a.json": b"{}", "deep/b.bin": DATA}
    site.files["m/a.json"] = b"[]"
    with pytest.raises(Transient, match=r"a\.json of dataset .* is damaged"):
        fetched(store, tmp_path / "b")
    site.files["m/SHA256SUMS"] += b"\n"
    with pytest.raises(InvalidSpec, match=r"but dataset\.sha256 is .* set the new digest"):
        store.pin()


@pytest.mark.parametrize("line", ["../a", "/a", "a/../../b", ""])
def test_https_sha256sums_list_with_other_folders_is_refused(
    site: Web, own: Certificate, line: str
) -> None:
    site.files["SHA256SUMS"] = f"{'0' * 64}  {line}\n".encode()
    with pytest.raises(InvalidSpec, match="has the invalid line"):
        https(site, own, "SHA256SUMS").pin()


@pytest.mark.parametrize("ranges", [True, False])
def test_interrupted_transfer_is_resumed(
    site: Web, own: Certificate, tmp_path: Path, ranges: bool
) -> None:
    site.files["a"], site.ranges = DATA, ranges
    store = https(site, own, "a")
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
    site: Web, own: Certificate, tmp_path: Path
) -> None:
    site.files["a"] = DATA
    store = https(site, own, "a")
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
    site: Web, own: Certificate, tmp_path: Path, status: int
) -> None:
    site.files["a"] = DATA
    store = https(site, own, "a")
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
    site: Web, own: Certificate, tmp_path: Path
) -> None:
    site.files["a"], site.ranges = DATA, False
    store = https(site, own, "a")
    found = store.pin()
    site.cuts = [20_000, 10_000] * 50
    site.requests.clear()
    with pytest.raises(Transient, match="interrupted at 20000 of 300000 bytes"):
        store.download(found, ["a"], tmp_path)
    assert len(site.requests) == 1 + len(transfer.PAUSES)


@pytest.fixture
def weights(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Hub, HubStore]]:
    """A repository of one file, and what reads it."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "a.safetensors").write_bytes(DATA)
    source = hub.add("model", "demo/weights", tmp_path / "repository")
    yield hub, HubStore(kind="model", source=source, revision="main", token="secret")
    hub.answers.clear()
    hub.cuts.clear()
    hub.cdn = ""


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_busy_hub_is_retried_at_the_same_byte(
    weights: tuple[Hub, HubStore], tmp_path: Path, status: int
) -> None:
    hub, store = weights
    found, name = store.pin(), "a.safetensors"
    hub.answers[name], hub.cuts[name] = [status, 200, status], [100_000]
    hub.ranges.clear()
    store.download(found, [name], tmp_path)
    asked = [each for _, each in hub.ranges]
    assert asked == [None, None, "bytes=100000-", "bytes=100000-"]
    assert (tmp_path / name).read_bytes() == DATA
    (tmp_path / name).unlink()
    hub.answers[name] = [status] * 10
    with pytest.raises(Transient, match=rf"interrupted at 0 of 300000 bytes \(HTTP {status} from"):
        store.download(found, [name], tmp_path)


@pytest.mark.parametrize("status", [403, 404, 503])
def test_refusal_of_a_redirect_target_is_transient(
    weights: tuple[Hub, HubStore], tmp_path: Path, status: int
) -> None:
    hub, store = weights
    found, name = store.pin(), "a.safetensors"
    with serving() as cdn:
        hub.cdn, cdn.refusing = cdn.url, status
        with pytest.raises(
            Transient, match=r"to which the hub redirects: the token is not the cause"
        ):
            store.download(found, [name], tmp_path)
    assert len(cdn.requests) == len(transfer.PAUSES)
    hub.answers[name] = [403]
    with pytest.raises(AccessDenied, match=r"the token in model\.tokenSecretRef is invalid"):
        store.download(found, [name], tmp_path)


def test_messages_contain_no_query_of_a_url() -> None:
    for address in ("http://c.test/a", "https://c.test/a"):
        said = (
            f"Client error '403' for url '{address}?X-Sig={SIGNATURE}&Key=b'\nFor more: {address}"
        )
        assert brief(ValueError(said)) == (
            f"ValueError: Client error '403' for url '{address}' For more: {address}"
        )


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("bytes 1000-2999/*", "returned a part of the file without its offset"),
        (None, "returned a part of the file without its offset"),
        ("bytes 1500-2999/3000", "resumed at byte 1500 instead of 1000"),
    ],
)
def test_partial_answer_at_the_wrong_offset_is_not_written(
    tmp_path: Path, place: str | None, said: str
) -> None:
    """Nothing but its size would tell of one elsewhere, where no SHA-256 is known."""
    (tmp_path / ".a.part").write_bytes(DATA[:1000])

    @contextmanager
    def read(offset: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        headers = {} if place is None else {"Content-Range": place}
        yield transfer.streamed(
            httpx.Response(206, headers=headers, content=iter([DATA[1000:3000]]))
        )

    file = RemoteFile(name="a", size=3000, sha256=None)
    with pytest.raises(Transient, match=said):
        transfer.fetch(file, read, tmp_path, what="it")
    assert (tmp_path / ".a.part").read_bytes() == DATA[:1000]


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (401, AccessDenied, "set dataset.tokenSecretRef to a Secret with a token"),
        (403, AccessDenied, "HTTP 403"),
        (404, DatasetNotFound, "correct dataset.source"),
        (410, DatasetNotFound, "HTTP 410"),
        (400, InvalidSpec, "correct dataset.source"),
        (429, Transient, "the download is retried"),
        (503, Transient, "the download is retried"),
    ],
)
def test_http_status_becomes_an_error_of_the_job(
    site: Web, own: Certificate, status: int, error: type[Exception], said: str
) -> None:
    site.answers["a"] = status
    with pytest.raises(error, match=said):
        https(site, own, "a").pin()


def test_https_token_is_sent(site: Web, own: Certificate, tmp_path: Path) -> None:
    site.files["a"], site.token = DATA, "secret"
    with pytest.raises(AccessDenied, match="tokenSecretRef is invalid or lacks read access"):
        https(site, own, "a", token="other").pin()
    assert fetched(https(site, own, "a", token="secret"), tmp_path / "a") == {"a": DATA}


def test_https_redirect_without_tls_is_refused(site: Web, own: Certificate, hub: Hub) -> None:
    site.redirects["a"] = f"{hub.url}/demo/tiny/resolve/main/config.json?Signature={SIGNATURE}"
    hub.requests.clear()
    with pytest.raises(InvalidSpec, match=r"redirected to http://.*json, which is not https://"):
        https(site, own, "a").pin()
    with pytest.raises(
        InvalidSpec, match=r"set dataset\.caConfigMapRef to a ConfigMap with its cert"
    ):
        https(site, own, "a", ca_file=None).pin()


def test_unreachable_web_server_is_transient(own: Certificate, unused_port: int) -> None:
    gone = Web(url=f"https://127.0.0.1:{unused_port}")
    with pytest.raises(Transient, match="is unreachable"):
        https(gone, own, "a").pin()


def s3(
    bucket: Bucket, own: Certificate | None, path: str, keys: dict[str, str] | None, **more: str
) -> S3:
    return S3(
        kind="model",
        source=f"s3://{path}",
        endpoint=bucket.url,
        ca_file=own.authority if own else None,
        environment={f"MODEL_{name}": value for name, value in (keys or {}).items()} | more,
    )


def test_s3_prefix_and_single_object_are_downloaded(
    bucket: Bucket, own: Certificate, tmp_path: Path
) -> None:
    store = s3(bucket, own, "tuning/rows", bucket.allowed)
    assert fetched(store, tmp_path / "a") == {
        "README.md": b"not rows",
        "deep/test.jsonl": ROWS,
        "train.jsonl": ROWS,
    }
    one = s3(bucket, own, "tuning/rows/train.jsonl", bucket.allowed)
    assert fetched(one, tmp_path / "b") == {"train.jsonl": ROWS}


def test_s3_prefix_is_pinned_by_its_list_of_objects(
    bucket: Bucket, own: Certificate, tmp_path: Path
) -> None:
    bucket.put("moving/a", DATA)
    store = s3(bucket, own, "tuning/moving", bucket.allowed)
    first = store.pin()
    assert s3(bucket, own, "tuning/moving/", bucket.allowed).pin().commit == first.commit
    bucket.put("moving/a", DATA[::-1])
    with pytest.raises(Transient, match=r"a of model s3://tuning/moving changed while it was read"):
        store.download(first, ["a"], tmp_path)
    assert s3(bucket, own, "tuning/moving", bucket.allowed).pin().commit != first.commit


def test_s3_download_is_resumed(bucket: Bucket, own: Certificate, tmp_path: Path) -> None:
    bucket.put("large/a", DATA)
    store = s3(bucket, own, "tuning/large", bucket.allowed)
    found = store.pin()
    # These bytes stay only if the download resumes after them.
    (tmp_path / ".a.part").write_bytes(b"#" * 1000)
    assert store.download(found, ["a"], tmp_path) == {"a": sha256(b"#" * 1000 + DATA[1000:])}


def test_s3_object_name_out_of_the_folder_is_refused(
    bucket: Bucket, own: Certificate, tmp_path: Path
) -> None:
    """A key may hold what is an absolute path once the prefix is taken away."""
    elsewhere = tmp_path / "elsewhere"
    bucket.put(f"strange/{elsewhere}", DATA)
    store = s3(bucket, own, "tuning/strange", bucket.allowed)
    found = store.pin()
    (tmp_path / "into").mkdir()
    with pytest.raises(InvalidSpec, match=f"the name '{elsewhere}', which leads out of"):
        store.download(found, list(found.files), tmp_path / "into")
    assert not elsewhere.exists()


@pytest.mark.parametrize(
    ("path", "key", "error", "said"),
    [
        ("tuning/rows", "forbidden", AccessDenied, "model.s3.secretRef is correct and may list"),
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
    bucket: Bucket, own: Certificate, path: str, key: str | None, error: type[Exception], said: str
) -> None:
    keys = getattr(bucket, key) if key else None
    with pytest.raises(error, match=said):
        s3(bucket, own, path, keys).pin()


def test_s3_untrusted_certificate_is_refused(bucket: Bucket) -> None:
    with pytest.raises(InvalidSpec, match=r"set model\.caConfigMapRef to a ConfigMap"):
        s3(bucket, None, "tuning/rows", bucket.allowed).pin()


def test_s3_is_read_with_the_cloud_identity_of_the_pod(
    bucket: Bucket, own: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What EKS puts into a pod whose ServiceAccount has a role."""
    (tmp_path / "token").write_text("a.web.identity")
    identity = {
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/reads",
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
        "AWS_ENDPOINT_URL_STS": bucket.url,
        "AWS_CA_BUNDLE": str(own.authority),
        "AWS_REGION": "eu-central-1",
    }
    for name, value in identity.items():
        monkeypatch.setenv(name, value)
    store = s3(bucket, own, "tuning/rows/train.jsonl", None, **identity)
    # moto takes no unsigned request while it authenticates, and a token is traded with one.
    web.authenticate(bucket.url, own, always=False)
    try:
        assert fetched(store, tmp_path / "a") == {"train.jsonl": ROWS}
    finally:
        web.authenticate(bucket.url, own, always=True)


def folder(root: Path, path: str = "", kind: Any = "model") -> Folder:
    return Folder(
        kind=kind, name=f"pvc://claim/{path}", root=root, path=path, remediation="put it there"
    )


def test_folder_of_a_claim_is_copied(tmp_path: Path) -> None:
    root = tmp_path / "claim"
    (root / "m" / "deep").mkdir(parents=True)
    (root / "m" / "a").write_bytes(DATA)
    (root / "blob").write_bytes(b"b")
    (root / "m" / "deep" / "b").symlink_to("../../blob")
    assert fetched(folder(root, "m"), tmp_path / "a") == {"a": DATA, "deep/b": b"b"}
    assert fetched(folder(root, "m/a"), tmp_path / "b") == {"a": DATA}
    before = folder(root, "m").pin().commit
    assert folder(root, "m").pin().commit == before
    os.utime(root / "blob", (1, 1))
    assert folder(root, "m").pin().commit != before


def test_link_out_of_a_claim_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "claim"
    (root / "m").mkdir(parents=True)
    (tmp_path / "secret").write_text("x")
    (root / "m" / "a").symlink_to("../../secret")
    with pytest.raises(InvalidSpec, match=r"m/a of model .* is a link to a path outside"):
        folder(root, "m").pin()
    (root / "m" / "a").unlink()
    with pytest.raises(ModelNotFound, match="contains no file: put it there"):
        folder(root, "m").pin()
    with pytest.raises(DatasetNotFound, match="does not exist: put it there"):
        folder(root, "other", "dataset").pin()


def test_prepare_reads_base_and_rows_from_a_claim(
    make: MakeWorkshop, base: Path, tmp_path: Path
) -> None:
    claim = tmp_path / "sources" / "shared"
    shutil.copytree(base, claim / "models/tiny")
    (claim / "models/tiny/modeling_tiny.py").write_text("raise SystemExit")
    tiny.dataset(claim / "rows", tiny.rows(24))
    workshop = make(
        model={"source": "pvc://shared/models/tiny"}, dataset={"source": "pvc://shared/rows"}
    )
    where = {"FINETUNE_SOURCES_DIR": str(tmp_path / "sources")}
    ended = workshop.run("prepare", **where)
    assert ended.code == 0, ended.log
    assert ended.result["artifacts"]["rows"] == 24
    assert not (workshop.work / "base/modeling_tiny.py").exists()
    shard = "model-00001-of-00002.safetensors"
    assert (workshop.work / "base" / shard).read_bytes() == (base / shard).read_bytes()
    workshop.succeed("train")
    (claim / "rows/train.jsonl").unlink()
    missing = make(
        model={"source": "pvc://shared/models/tiny"}, dataset={"source": "pvc://shared/rows"}
    )
    refused(
        missing.run("prepare", **where),
        66,
        "DatasetNotFound",
        "copy files to PersistentVolumeClaim shared",
    )


def test_prepare_reads_base_and_rows_from_s3(
    make: MakeWorkshop, base: Path, bucket: Bucket, own: Certificate, tmp_path: Path
) -> None:
    for path in base.iterdir():
        bucket.put(f"models/tiny/{path.name}", path.read_bytes())
    (tmp_path / "ca").mkdir()
    for kind in ("model", "dataset"):
        shutil.copy(own.authority, tmp_path / "ca" / f"{kind}.crt")
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
    refused(ended, 77, "AccessDenied", "dataset s3://tuning/rows", "dataset.s3.secretRef")


def test_prepare_reads_base_and_rows_from_a_web_server(
    make: MakeWorkshop, base: Path, site: Web, own: Certificate, tmp_path: Path
) -> None:
    files = {path.name: path.read_bytes() for path in base.iterdir()}
    lines = "".join(f"{sha256(data)}  {name}\n" for name, data in files.items())
    site.files = {f"m/{name}": data for name, data in files.items()}
    site.files |= {"m/SHA256SUMS": lines.encode(), "rows.jsonl": ROWS}
    (tmp_path / "ca").mkdir()
    for kind in ("model", "dataset"):
        shutil.copy(own.authority, tmp_path / "ca" / f"{kind}.crt")
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
    refused(ended, 75, "Transient", "rows.jsonl of dataset", "is damaged")


def cached(root: Path, base: Path, hub: Hub) -> Path:
    """Lay a base into a cache as the hub's own client does, with links to blobs."""
    folder = root / "models--demo--tiny"
    snapshot = folder / "snapshots" / hub.repos["models/demo/tiny"].commit()
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir()
    for path in base.glob("*.safetensors"):
        blob = folder / "blobs" / sha256(path.read_bytes())
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(f"../../blobs/{blob.name}")
    return snapshot


def weights_asked_for(hub: Hub) -> list[str]:
    return sorted({each.split("/")[-1] for each in hub.requests if each.endswith(".safetensors")})


def test_base_cache_replaces_the_download(
    make: MakeWorkshop, base: Path, hub: Hub, tmp_path: Path
) -> None:
    snapshot = cached(tmp_path, base, hub)
    hub.requests.clear()
    workshop = make()
    ended = workshop.run("prepare", FINETUNE_BASE_CACHE=str(tmp_path))
    assert ended.code == 0, ended.log
    assert weights_asked_for(hub) == []
    assert manifest.valid(workshop.work / "base", kind="base", key=None)
    _, second = sorted(path.name for path in base.glob("model-*.safetensors"))
    blob = (snapshot / second).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"#")
    workshop = make()
    ended = workshop.run("prepare", FINETUNE_BASE_CACHE=str(tmp_path))
    assert ended.code == 0, ended.log
    assert f"{second} in the base cache differs in SHA-256" in ended.log
    assert weights_asked_for(hub) == [second]
    assert (workshop.work / "base" / second).read_bytes() == (base / second).read_bytes()


def test_partial_copy_from_the_base_cache_is_not_part_of_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk behind the cache fails, and the next attempt has no cache."""
    snapshot = tmp_path / "cache" / "models--demo--a" / "snapshots" / "c"
    snapshot.mkdir(parents=True)
    # Its first byte cannot be read: EIO.
    (snapshot / "a").symlink_to("/proc/self/mem")
    file = RemoteFile(name="a", size=len(DATA), sha256=sha256(DATA))
    repository = Repository(kind="model", name="demo/a", commit="c", files={"a": file})
    into = tmp_path / "base"
    into.mkdir()
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    with pytest.raises(OSError, match="Input/output error"):
        cache.take(repository, ["a"], into, on_bytes=lambda count: None)

    @contextmanager
    def read(offset: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        yield offset, iter([DATA[offset:]])

    transfer.fetch(file, read, into, what="it")
    assert {path.name: path.read_bytes() for path in into.iterdir()} == {"a": DATA}


def test_base_cache_without_the_base_is_ignored(
    make: MakeWorkshop, hub: Hub, tmp_path: Path
) -> None:
    hub.requests.clear()
    ended = make().run("prepare", FINETUNE_BASE_CACHE=str(tmp_path))
    assert ended.code == 0, ended.log
    assert len(weights_asked_for(hub)) == 2
    assert "the base cache does not have demo/tiny" in ended.log
