"""Requests of the real client library to the local hub."""

import http.client
import json
import os
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hub import repositories
from hub.server import make_server

LARGE = b"0123456789abcdef" * (repositories.LARGE // 16 + 1)
MODEL = "demo/model"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    model = folder / "models" / MODEL
    (model / "sub").mkdir(parents=True)
    (model / "config.json").write_text('{"a": 1}')
    (model / "sub" / "note.txt").write_text("deep")
    (model / "model.safetensors").write_bytes(LARGE)
    (model / ".hidden").write_text("secret")
    gated = folder / "models" / "demo" / "gated"
    gated.mkdir()
    (gated / "config.json").write_text("{}")
    (gated / ".hub.json").write_text('{"gated": true, "tokens": ["hf_good"]}')
    rows = folder / "datasets" / "demo" / "rows"
    rows.mkdir(parents=True)
    (rows / "train.jsonl").write_text('{"text": "x"}\n')
    return folder


@pytest.fixture(scope="module")
def endpoint(root: Path) -> Iterator[str]:
    with make_server(root, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def api(endpoint: str) -> HfApi:
    return HfApi(endpoint=endpoint, token=False)


def test_no_request_waits_for_the_digests_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is hashed once, when the server starts, also if it has two names."""
    first, second = (tmp_path / "models" / "demo" / name for name in ("one", "two"))
    first.mkdir(parents=True)
    second.mkdir()
    (first / "weights").write_bytes(b"weights")
    os.link(first / "weights", second / "weights")
    opened: list[str] = []
    read = Path.open

    def counted(path: Path, *given: Any, **options: Any) -> Any:
        opened.append(path.name)
        return read(path, *given, **options)

    monkeypatch.setattr(Path, "open", counted)
    with make_server(tmp_path, "127.0.0.1", 0) as server:
        assert opened == ["weights"]
        store = server.RequestHandlerClass.store  # type: ignore[attr-defined]
        assert store.repository("models", "demo/two").files[0].size == len(b"weights")
    assert opened == ["weights"]


def test_information_lists_files_with_sizes_without_hidden_files(api: HfApi) -> None:
    info = api.model_info(MODEL, files_metadata=True)
    siblings = info.siblings or []
    assert {item.rfilename: item.size for item in siblings} == {
        "config.json": 8,
        "model.safetensors": len(LARGE),
        "sub/note.txt": 4,
    }
    assert info.sha is not None
    assert len(info.sha) == 40


def test_datasets_and_models_are_separate(api: HfApi) -> None:
    assert api.dataset_info("demo/rows").id == "demo/rows"
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("demo/rows")


def test_tree_lists_one_level_or_all(api: HfApi) -> None:
    flat = {item.path for item in api.list_repo_tree(MODEL)}
    deep = {item.path for item in api.list_repo_tree(MODEL, recursive=True)}
    assert flat == {"config.json", "model.safetensors", "sub"}
    assert deep == flat | {"sub/note.txt"}


def test_paths_info_omits_missing_files(api: HfApi) -> None:
    found = api.get_paths_info(MODEL, ["config.json", "nothing.json"])
    assert [item.path for item in found] == ["config.json"]


def test_download_returns_the_content(endpoint: str, tmp_path: Path) -> None:
    for name in ("model.safetensors", "sub/note.txt"):
        file = hf_hub_download(MODEL, name, endpoint=endpoint, cache_dir=tmp_path, token=False)
        expected = LARGE if name.startswith("model") else b"deep"
        assert Path(file).read_bytes() == expected


def test_commit_changes_only_with_the_content(root: Path, api: HfApi) -> None:
    first = api.model_info(MODEL).sha
    config = root / "models" / MODEL / "config.json"
    config.touch()
    assert api.model_info(MODEL).sha == first
    config.write_text('{"a": 2}')
    changed = api.model_info(MODEL).sha
    config.write_text('{"a": 1}')
    assert changed != first
    assert api.model_info(MODEL).sha == first
    with pytest.raises(RevisionNotFoundError):
        api.model_info(MODEL, revision=changed)
    assert api.model_info(MODEL, revision=first).sha == first


def test_refusals_say_why(endpoint: str, api: HfApi) -> None:
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("demo/nothing")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(MODEL, "nothing.json", endpoint=endpoint, token=False)


def test_gated_repository_opens_with_its_token_only(endpoint: str, tmp_path: Path) -> None:
    for token, status in ((False, 401), ("hf_bad", 403)):
        with pytest.raises(GatedRepoError) as refused:
            HfApi(endpoint=endpoint, token=token).model_info("demo/gated")
        assert refused.value.response.status_code == status
    options = {"endpoint": endpoint, "cache_dir": tmp_path, "token": "hf_good"}
    assert Path(hf_hub_download("demo/gated", "config.json", **options)).read_text() == "{}"


def ask(endpoint: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(endpoint).netloc, timeout=10)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, dict(response.getheaders()), body


@pytest.mark.parametrize(
    ("byte_range", "expected"),
    [
        ("bytes=4-7", LARGE[4:8]),
        (f"bytes={len(LARGE) - 5}-", LARGE[-5:]),
        ("bytes=-3", LARGE[-3:]),
        (f"bytes={len(LARGE) - 2}-{len(LARGE) + 100}", LARGE[-2:]),
    ],
)
def test_range_request_returns_the_requested_bytes(
    endpoint: str, byte_range: str, expected: bytes
) -> None:
    path = f"/{MODEL}/resolve/main/model.safetensors"
    status, headers, body = ask(endpoint, path, Range=byte_range)
    assert (status, body) == (206, expected)
    assert headers["Content-Range"].endswith(f"/{len(LARGE)}")


def test_range_beyond_the_end_is_not_satisfiable(endpoint: str) -> None:
    path = f"/{MODEL}/resolve/main/config.json"
    status, headers, _ = ask(endpoint, path, Range="bytes=100-200")
    assert (status, headers["Content-Range"]) == (416, "bytes */8")


@pytest.mark.parametrize("name", ["..%2F..%2Fetc", "demo/..", ".hub/x", "demo/.hidden"])
def test_repository_names_cannot_escape_the_root(endpoint: str, name: str) -> None:
    status, _, body = ask(endpoint, f"/api/models/{name}")
    assert status == 404
    assert "error" in json.loads(body)
