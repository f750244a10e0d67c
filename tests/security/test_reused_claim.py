"""A tenant plants files on a claim, which another FineTuneJob then uses without a restored status.

An administrator sets the label ``finetune.dev/reuse=downloads``, so that the job downloads the base
again only if a file differs from its source. Nothing vouches for the files on the claim: the tenant
had a pod on it, or created it. The tenant cannot make the job use them, reach a file outside the
volume, or make the job use a claim that no administrator has labelled.
"""

import hashlib
import os
import shutil
import stat
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import SPEC, Cluster, Refused, copied
from tests.security.nested_folders import nested
from tests.support.trainer import tiny, web
from tests.support.trainer.workshop import Ended, Server, Workshop

from finetune_operator.objects import naming
from finetune_trainer.checkpointing import manifest
from finetune_trainer.errors import ResumeRefused
from finetune_trainer.preparation import earlier_volume
from finetune_trainer.sources import RemoteFile, Repository
from finetune_trainer.volume import lock
from finetune_trainer.volume.files import sha256_of
from finetune_trainer.volume_layout import Layout, partial_path

pytestmark = [
    pytest.mark.finding(16, "a job uses files that a tenant planted on a reused claim"),
    # The libraries under the trainer warn about each other.
    pytest.mark.filterwarnings("default"),
]
SECRET = b"a file that only the node may read"
HUGE = 1 << 40
"""Bytes of a sparse file, which occupies nothing."""


@dataclass(frozen=True, kw_only=True)
class Planting:
    """The volume of the earlier job, and what the tenant knows."""

    work: Path
    outside: Path
    scratch: Path
    """The folder of an interrupted download of the commit that the job pins."""
    shards: tuple[str, ...]

    def sparse(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, HUGE)
        return path

    def linked(self, path: Path, target: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(target)
        return path

    def special(self, path: Path, kind: int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mknod(path, kind | 0o600)
        return path


def other_weights(at: Planting) -> Path:
    """Of the same size, with a manifest that the trainer would write."""
    path = at.work / "base" / at.shards[0]
    path.write_bytes(path.read_bytes()[:-64] + bytes(64))
    publish_again(at.work / "base")
    return path


def other_tokenizer(at: Planting) -> Path:
    """Where the next attempt resumes its download."""
    path = at.scratch / "tokenizer.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    return path


def partial_download(at: Planting) -> Path:
    """A download is resumed behind these bytes."""
    path = partial_path(at.scratch / at.shards[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"planted")
    return path


def other_rows(at: Planting) -> Path:
    path = max((at.work / "dataset").glob("train*"), key=lambda each: each.stat().st_size)
    path.write_bytes(path.read_bytes()[::-1])
    publish_again(at.work / "dataset")
    return path


def result(name: str) -> Callable[[Planting], Path]:
    """A folder that a later stage would use, with a manifest that matches."""

    def plant(at: Planting) -> Path:
        shutil.copytree(at.work / "base", at.work / name)
        publish_again(at.work / name)
        return at.work / name

    return plant


PLANTED: dict[str, Callable[[Planting], Path]] = {
    "weights with a manifest": other_weights,
    "tokenizer of an interrupted download": other_tokenizer,
    "partial download": partial_download,
    "rows with a manifest": other_rows,
    "checkpoint": result("checkpoints/step-2"),
    "adapter": result("adapter"),
    "reference": result("reference"),
    "merged model": result("merged-0badbeef"),
    "GPU usage": lambda at: at.sparse(at.work / "usage.json"),
    "code": lambda at: at.sparse(at.work / "base" / "modeling_planted.py"),
    "huge shard": lambda at: at.sparse(at.scratch / at.shards[1]),
    "huge file elsewhere": lambda at: at.sparse(at.work / "lost+found" / "planted"),
    "link to a file": lambda at: at.linked(
        at.scratch / "tokenizer_config.json", at.outside / "secret"
    ),
    "link to a device": lambda at: at.linked(at.scratch / "config.json", Path("/dev/zero")),
    "link to a folder": lambda at: at.linked(at.work / "tensorboard", at.outside),
    "link in place of a download": lambda at: at.linked(
        at.work / ".writing-base-000000000000", at.outside
    ),
    "link below a folder": lambda at: at.linked(at.scratch / "nested" / "link", at.outside),
    "link upwards": lambda at: at.linked(at.scratch / "up", Path("../..")),
    "pipe": lambda at: at.special(at.scratch / "generation_config.json", stat.S_IFIFO),
    "socket": lambda at: at.special(at.work / "socket", stat.S_IFSOCK),
}


def publish_again(folder: Path) -> None:
    """Write a manifest that matches the files, as the trainer does."""
    present = manifest.read(folder)
    scratch = folder.with_name(".planting")
    folder.rename(scratch)
    manifest.publish(scratch, folder, kind=present.kind, key=present.key, facts=present.facts)


@dataclass(frozen=True, kw_only=True)
class Reused:
    """The volume after the ``prepare`` stage of the next job."""

    ended: Ended
    work: Path
    source: dict[str, bytes]
    outside: Path
    planted: dict[str, tuple[Path, bytes]]
    """Path and content of each planted file; empty content for all but small regular files."""
    changed: str
    """The shard whose only copy on the volume was changed."""
    downloaded: list[str]


def small(path: Path) -> bytes:
    regular = path.is_file() and not path.is_symlink()
    return path.read_bytes() if regular and path.stat().st_size < HUGE else b""


@pytest.fixture(scope="module")
def reused(
    trainers: dict[str, Server], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reused]:
    folder = tmp_path_factory.mktemp("reused")
    outside = folder / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(SECRET)
    own = web.certificate(folder)
    (folder / "ca").mkdir()
    shutil.copy(own.authority, folder / "ca" / "model.crt")
    tiny.dataset(folder / "dataset", tiny.rows(24), "rows.jsonl")
    source = {path.name: path.read_bytes() for path in tiny.model(folder / "model").iterdir()}
    sums = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in source.items()
    ).encode()
    with web.web(own) as site:
        site.files.update({f"m/{name}": content for name, content in source.items()})
        site.files["m/SHA256SUMS"] = sums
        digest = hashlib.sha256(sums).hexdigest()
        job = tiny.job(
            "hf://demo/tiny",
            "configmap://rows/rows.jsonl",
            model={"source": f"{site.url}/m/SHA256SUMS", "sha256": digest},
        )
        workshop = Workshop(trainers, folder, folder / "work", job)
        environment = {"FINETUNE_CONFIG_DIR": str(folder)}
        first = workshop.run("prepare", **environment)
        assert first.code == 0, first.log
        shards = tuple(sorted(name for name in source if name.endswith(".safetensors")))
        at = Planting(
            work=workshop.work,
            outside=outside,
            scratch=workshop.work / f".writing-base-{digest[:12]}",
            shards=shards,
        )
        paths = {name: plant(at) for name, plant in PLANTED.items()}
        planted = {name: (path, small(path)) for name, path in paths.items()}
        os.link(workshop.work / "base" / shards[-1], workshop.work / "second-name")
        site.requests.clear()
        ended = workshop.run("prepare", untrusted_volume=True, **environment)
        yield Reused(
            ended=ended,
            work=workshop.work,
            source=source,
            outside=outside,
            planted=planted,
            changed=shards[0],
            # The size of a file is requested with a range.
            downloaded=[path for path, asked in site.requests if asked is None],
        )


def test_the_job_prepares_its_own_files(reused: Reused) -> None:
    assert reused.ended.code == 0, reused.ended.log
    assert {path.name for path in reused.work.iterdir()} == {"base", "dataset", "lock.json"}
    base = {path.name: path.read_bytes() for path in (reused.work / "base").iterdir()}
    assert base.keys() - {manifest.FILE} <= reused.source.keys()
    for name in base.keys() - {manifest.FILE}:
        assert base[name] == reused.source[name], name
    for name in ("base", "dataset"):
        for path in (reused.work / name).rglob("*"):
            assert stat.S_ISREG(path.lstat().st_mode), path
            assert path.lstat().st_nlink == 1, path
    assert {path.name: path.read_bytes() for path in reused.outside.iterdir()} == {"secret": SECRET}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_file_is_replaced_or_deleted(reused: Reused, name: str) -> None:
    path, content = reused.planted[name]
    if os.path.lexists(path):
        assert stat.S_ISREG(path.lstat().st_mode)
        assert path.lstat().st_size < HUGE
        assert path.read_bytes() != content


def test_only_the_changed_file_is_downloaded(reused: Reused) -> None:
    """Planting a second file of a name does not cost a download."""
    assert reused.downloaded == ["m/SHA256SUMS", f"m/{reused.changed}"]


LOCKS: dict[str, Callable[[Path, Path], object]] = {
    "link": lambda path, outside: path.symlink_to(outside / "secret"),
    "link to a file that does not exist": lambda path, outside: path.symlink_to(outside / "new"),
    "link to a device": lambda path, _: path.symlink_to("/dev/zero"),
    "pipe": lambda path, _: os.mkfifo(path),
    "socket": lambda path, _: os.mknod(path, stat.S_IFSOCK | 0o600),
    "folder": lambda path, _: path.mkdir(),
}


@pytest.mark.parametrize("kind", LOCKS)
def test_a_planted_lock_is_neither_followed_nor_waited_for(tmp_path: Path, kind: str) -> None:
    """Two trainers that follow a link into their own pods would both write to the volume."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(SECRET)
    layout = Layout(work=tmp_path / "work")
    layout.work.mkdir()
    LOCKS[kind](layout.lock, outside)
    with (
        pytest.raises(ResumeRefused, match=r"lock\.json .*delete the PersistentVolumeClaim"),
        lock.held(layout, "prepare", wait=0.0),
    ):
        pytest.fail("it is held")
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == {"secret": SECRET}


def test_a_huge_lock_is_not_read_into_memory(tmp_path: Path) -> None:
    layout = Layout(work=tmp_path)
    layout.lock.write_text('{"command": "x')
    os.truncate(layout.lock, 1 << 26)
    tracemalloc.start()
    try:
        with lock.held(layout, "prepare", wait=0.0):
            assert layout.lock.stat().st_size < 1000
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.fixture
def deep() -> Iterator[Layout]:
    """A volume with folders that are nested more deeply than a path can name."""
    with nested() as work:
        yield Layout(work=work)


@pytest.mark.parametrize("name", ["checkpoints", "base", ".writing-base-cccccccccccc"])
def test_deep_folders_are_refused_with_what_to_do(deep: Layout, name: str) -> None:
    (deep.work / "nested").rename(deep.work / name)
    with pytest.raises(
        ResumeRefused, match=r"cannot be deleted .*delete the PersistentVolumeClaim"
    ):
        take_over(deep)


CONTENT = b"the weights of the source"
SHARD = RemoteFile(
    name="model.safetensors", size=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest()
)


def take_over(layout: Layout) -> Path:
    repository = Repository(
        kind="model", name="demo/base", commit="c" * 40, files={SHARD.name: SHARD}
    )
    into = layout.scratch("base-cccccccccccc")
    earlier_volume.take_over(layout, repository, into, rows=())
    return into


@pytest.mark.parametrize("readable", [True, False], ids=["another user", "unreadable"])
def test_a_file_that_could_not_be_published_is_downloaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readable: bool
) -> None:
    """Its mode cannot be changed, or its content cannot be read: not a reason to fail forever."""
    layout = Layout(work=tmp_path)
    layout.base.mkdir()
    (layout.base / SHARD.name).write_bytes(CONTENT)

    def denied(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    if readable:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    else:
        monkeypatch.setattr(earlier_volume, "sha256_of", denied)
    assert list(take_over(layout).iterdir()) == []
    monkeypatch.undo()
    (layout.base).mkdir()
    (layout.base / SHARD.name).write_bytes(CONTENT)
    assert sha256_of(take_over(layout) / SHARD.name) == SHARD.sha256


def earlier(cluster: Cluster, *, labelled: bool) -> Any:
    """Run a job that keeps its volume, delete it, and create it again; return the claim."""
    cluster.edit(storage={"deletionPolicy": "Retain"})
    controllers.run_all(cluster)
    cluster.settle()
    controllers.restore(cluster, status=False, reuse=labelled)
    (claim,) = cluster.each(naming.VOLUME)
    return claim


def test_a_job_author_cannot_label_a_claim_through_a_job() -> None:
    spec = copied(SPEC)
    spec["podMetadata"] = {"labels": {naming.REUSE: naming.REUSE_DOWNLOADS}}
    cluster = Cluster(spec=spec)
    cluster.settle()
    ready = cluster.status["conditions"][0]
    assert (ready["status"], ready["reason"]) == ("False", "InvalidSpec")
    assert "reserved" in ready["message"]
    assert cluster.objects == {}


def test_a_job_author_uses_no_claim_without_the_label() -> None:
    cluster = Cluster()
    claim = earlier(cluster, labelled=False)
    before = copied(claim)
    with pytest.raises(Refused, match="has another owner"):
        cluster.settle()
    assert claim == before
    assert not list(cluster.each("Job"))


def test_the_label_allows_one_use() -> None:
    """The models that the job then trains are kept if its author creates it a third time."""
    cluster = Cluster()
    claim = earlier(cluster, labelled=True)
    controllers.run_all(cluster)
    cluster.settle()
    assert naming.owned_by(cluster.present_job(), claim)
    controllers.restore(cluster, status=False)
    (claim,) = cluster.each(naming.VOLUME)
    assert naming.REUSE not in claim["metadata"]["labels"]
    with pytest.raises(Refused, match="has another owner"):
        cluster.settle()


@pytest.mark.parametrize("change", [{"training": {"seed": 7}}, {"model": {"source": "hf://a/b"}}])
def test_the_label_allows_no_other_recipe(change: dict[str, Any]) -> None:
    cluster = Cluster()
    claim = earlier(cluster, labelled=True)
    before = copied(claim)
    cluster.edit(**change)
    cluster.settle()
    assert claim == before
    own = [each for each in cluster.each(naming.VOLUME) if each is not claim]
    assert [each["metadata"]["name"] for each in own] == [f"demo-{cluster.status['revision']}"]
