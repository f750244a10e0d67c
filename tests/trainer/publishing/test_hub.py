"""Publishing to a hub with its real client: commits, names, what is sent again, what is refused."""

import gc
import hashlib
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub
import pytest
import yaml
from huggingface_hub import ModelCard, constants
from tests.fakes.model_hub import CHUNK, TOKEN, File, ModelHub, Repo
from tests.support.trainer.hub_target import ENVIRONMENT, REPO, hub_target
from tests.support.trainer.publishing import BUILD, TEXT_OF_A_ROW, Published, Volume, run
from tests.support.trainer.web import Certificate

from finetune_trainer.errors import PublishFailed, Transient

SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client waits between its own retries."""
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda seconds: None)


@pytest.fixture
def target(volume: Volume, hub: ModelHub, certificate: Certificate) -> dict[str, Any]:
    return hub_target(volume, hub, certificate)


def publish(
    volume: Volume, target: dict[str, Any], environment: dict[str, str] | None = None
) -> Published:
    return run(volume, target, environment=ENVIRONMENT if environment is None else environment)


def files_at(repo: Repo, revision: str = "main") -> dict[str, File]:
    commit = repo.at(revision)
    assert commit is not None
    return {name: file for name, file in commit.files.items() if name != ".gitattributes"}


def test_model_is_published_in_one_commit(
    volume: Volume, hub: ModelHub, target: dict[str, Any]
) -> None:
    target["annotations"] = {"finetune.dev/job": "ns/demo"}
    done = publish(volume, target)
    assert done.error is None, done.failure
    repo = hub.repos[REPO]
    assert repo.private
    created, made = repo.commits.values()
    assert made.parent == created.sha
    assert (made.title, made.description) == ("Publish tiny-1-merged", "finetune.dev/job: ns/demo")
    assert done.only.reference == f"hf://{REPO}@{made.sha}"
    assert done.only.digest == f"sha1:{made.sha}"
    assert repo.branches == {"main": made.sha}
    assert repo.tags == {"tiny-1-merged": made.sha}
    found = files_at(repo)
    document = json.loads(found["manifest.json"].data)
    assert {each["name"]: each["sha256"] for each in document["files"]} == {
        name: file.sha256 for name, file in found.items() if name != "manifest.json"
    }
    assert document["facts"]["publishedFrom"] == volume.merged
    assert done.only.manifest == found["manifest.json"].sha256
    source = volume.layout.merged(BUILD) / SHARD
    assert found[SHARD].data == source.read_bytes()
    assert found[SHARD].large
    everything = b"".join(file.data for file in found.values())
    assert TEXT_OF_A_ROW.encode() not in everything
    assert not any(name.startswith("reference/") for name in found)
    assert done.only.bytes == len(everything)
    assert done.only.sent_bytes == len(everything)


def test_adapter_has_the_tokenizer(volume: Volume, hub: ModelHub, target: dict[str, Any]) -> None:
    target |= {"what": "adapter", "content": volume.adapter, "version": "tiny-1-adapter"}
    assert publish(volume, target).error is None
    found = files_at(hub.repos[REPO])
    assert {"adapter_model.safetensors", "tokenizer.json", "manifest.json"} <= found.keys()
    assert not {"rows.jsonl", "events.out.tfevents.finetune"} & found.keys()


def test_model_card_has_valid_metadata(
    volume: Volume, hub: ModelHub, target: dict[str, Any]
) -> None:
    """The client reads the metadata; nothing is asked elsewhere."""
    publish(volume, target)
    text = files_at(hub.repos[REPO])["README.md"].data.decode()
    card = ModelCard(text)
    assert card.data.base_model == "demo/tiny"
    assert card.data.datasets == ["demo/rows"]
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "transformers"
    assert {"qlora", "sft"} <= set(card.data.tags)
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("loss", 1.25)
    assert (result.dataset_type, result.task_type) == ("demo/rows", "text-generation")
    assert text.endswith("# tiny\n")
    assert yaml.safe_load(text.split("---")[1])["base_model_relation"] == "finetune"


def test_card_has_no_loss_that_the_ledger_does_not_vouch_for(
    volume: Volume, hub: ModelHub, target: dict[str, Any]
) -> None:
    """The digest that the merged model has of its adapter covers files, but no results."""
    path = volume.layout.adapter / "manifest.json"
    path.write_text(path.read_text().replace("1.25", "0.25"))
    reason, message = publish(volume, target).failure
    assert reason == "ResumeRefused"
    assert "spec.rerun" in message
    assert REPO not in hub.repos


def test_second_run_sends_nothing(volume: Volume, hub: ModelHub, target: dict[str, Any]) -> None:
    first, before = publish(volume, target).only, len(hub.requests)
    second = publish(volume, target).only
    assert (second.error, second.reference, second.sent_bytes) == (None, first.reference, 0)
    assert all(each.startswith("GET ") for each in hub.requests[before:])


def test_sent_files_are_not_sent_again(
    volume: Volume, hub: ModelHub, target: dict[str, Any]
) -> None:
    hub.answers = [("POST", "/commit/", 500, "try again")]
    failed = publish(volume, target)
    assert failed.failure[0] == "Transient"
    sent = hub.received_bytes
    assert hub.repos[REPO].branches["main"] in hub.repos[REPO].commits
    assert not files_at(hub.repos[REPO])
    assert publish(volume, target).error is None
    assert hub.received_bytes == sent


def test_files_in_parts(volume: Volume, hub: ModelHub, target: dict[str, Any]) -> None:
    assert publish(volume, target).error is None
    size = (volume.layout.merged(BUILD) / SHARD).stat().st_size
    oid = files_at(hub.repos[REPO])[SHARD].sha256
    parts = [count for each, count in hub.received if each == oid]
    assert parts == [CHUNK] * (size // CHUNK)
    assert not hub.parts


def test_lost_answer_to_the_commit(volume: Volume, hub: ModelHub, target: dict[str, Any]) -> None:
    """The commit was made: the next attempt finds it, although the ledger does not know it."""
    hub.on_commit = lambda: hub.answers.append(("GET", "/revision/", 500, "broken"))
    hub.answers = []
    first = publish(volume, target)
    # The client does not repeat requests for information; the commit is there.
    assert first.failure[0] == "Transient"
    assert publish(volume, target).error is None
    assert len(hub.repos[REPO].commits) == 2


def test_new_branch(volume: Volume, hub: ModelHub, target: dict[str, Any]) -> None:
    """A branch begins at the main branch, whose files are not in the commit."""
    repo = hub.add(REPO, {"notes.txt": b"of a user", ".gitattributes": b""})
    before = repo.branches["main"]
    target["hugging_face"]["branch"] = "tuned"
    assert publish(volume, target).error is None
    assert repo.branches["main"] == before
    assert "notes.txt" not in files_at(repo, "tuned")
    assert repo.commits[repo.branches["tuned"]].parent == before


def test_branch_that_was_only_created(
    volume: Volume, hub: ModelHub, target: dict[str, Any]
) -> None:
    repo = hub.add(REPO, {"notes.txt": b"of a user"})
    target["hugging_face"]["branch"] = "tuned"
    hub.answers = [("POST", "/preupload/", 403, "no")]
    assert publish(volume, target).failure[0] == "AccessDenied"
    assert repo.branches["tuned"] == repo.branches["main"]
    assert publish(volume, target).error is None


def test_branch_of_others_is_not_moved(
    volume: Volume, hub: ModelHub, target: dict[str, Any]
) -> None:
    repo = hub.add(REPO, {"README.md": b"of a user", "extra.bin": b"1"})
    before = repo.branches["main"]
    done = publish(volume, target)
    reason, message = done.failure
    assert (reason, type(done.error)) == ("TargetConflict", PublishFailed)
    assert "publish[main].huggingFace.branch" in message
    assert "publish[main].overwrite" in message
    assert repo.branches["main"] == before
    assert not hub.received, "nothing is sent before the conflict is found"
    assert publish(volume, target | {"own": [f"sha1:{'0' * 40}"]}).failure[0] == "TargetConflict"
    assert publish(volume, target | {"overwrite": True}).error is None
    head = repo.commits[repo.branches["main"]]
    assert head.parent == before, "the earlier commit stays in the history"
    assert "extra.bin" not in head.files


def test_branch_follows_the_revisions_of_the_job(
    volume: Volume, hub: ModelHub, target: dict[str, Any]
) -> None:
    """To another content, and back."""
    first = publish(volume, target).only
    other = target | {"what": "adapter", "content": volume.adapter, "version": "tiny-1-adapter"}
    assert publish(volume, other).failure[0] == "TargetConflict"
    second = publish(volume, other | {"own": [first.digest]}).only
    assert second.error is None
    repo = hub.repos[REPO]
    assert SHARD not in files_at(repo)
    sent = hub.received_bytes
    again = publish(volume, target | {"own": [first.digest, second.digest]}).only
    assert again.error is None
    assert hub.received_bytes == sent
    assert files_at(repo).keys() == files_at(repo, "tiny-1-merged").keys()
    assert f"sha1:{repo.tags['tiny-1-merged']}" == first.digest != again.digest


def test_edit_at_the_hub_is_not_overwritten(
    volume: Volume, hub: ModelHub, target: dict[str, Any]
) -> None:
    first = publish(volume, target).only
    repo = hub.repos[REPO]
    edited = {**repo.commits[repo.branches["main"]].files, "README.md": File(b"mine", large=False)}
    commit = repo.commit("main", edited)
    reason, message = publish(volume, target | {"own": [first.digest]}).failure
    assert reason == "TargetConflict"
    assert commit.sha[:12] in message


def test_name_of_a_revision_never_moves(
    volume: Volume, hub: ModelHub, target: dict[str, Any]
) -> None:
    repo = hub.add(REPO, {"other.txt": b"1"})
    repo.tags["tiny-1-merged"] = repo.branches["main"]
    reason, message = publish(volume, target | {"overwrite": True}).failure
    assert reason == "TargetConflict"
    assert "the tag tiny-1-merged of acme/tiny exists with another content" in message
    assert not hub.received


def test_public_repository_is_refused_by_default(
    volume: Volume, hub: ModelHub, target: dict[str, Any]
) -> None:
    repo = hub.add(REPO, {}, private=False)
    reason, message = publish(volume, target).failure
    assert reason == "TargetConflict"
    assert "publish[main].huggingFace.private" in message
    assert not hub.received
    target["hugging_face"]["private"] = False
    assert publish(volume, target).error is None
    assert not repo.private


def test_new_public_repository(volume: Volume, hub: ModelHub, target: dict[str, Any]) -> None:
    target["hugging_face"]["private"] = False
    assert publish(volume, target).error is None
    assert not hub.repos[REPO].private


def test_commit_of_another_client_at_the_same_time(
    volume: Volume, hub: ModelHub, target: dict[str, Any]
) -> None:
    repo = hub.add(REPO, {".gitattributes": b""})
    foreign = {"theirs.txt": File(b"1", large=False)}
    hub.at = (1, lambda: repo.commit("main", foreign))
    reason, message = publish(volume, target).failure
    assert reason == "TargetConflict"
    assert "at the same time" in message
    assert repo.commits[repo.branches["main"]].files == foreign


@pytest.mark.parametrize("name", [SHARD, "config.json"])
def test_changed_file_on_the_volume_is_not_published(
    volume: Volume, hub: ModelHub, target: dict[str, Any], name: str
) -> None:
    path = volume.layout.merged(BUILD) / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    reason, message = publish(volume, target).failure
    assert reason == "ResumeRefused"
    assert f"{name} has changed since it was written" in message
    assert not files_at(hub.repos[REPO])
    assert hashlib.sha256(path.read_bytes()).hexdigest() not in hub.large
    path.write_bytes(data)
    assert publish(volume, target).error is None


def test_link_on_the_volume_is_not_followed(
    volume: Volume, hub: ModelHub, target: dict[str, Any]
) -> None:
    path = volume.layout.merged(BUILD) / SHARD
    copy = path.rename(volume.layout.work / "elsewhere")
    path.symlink_to(copy)
    assert publish(volume, target).failure[0] == "ResumeRefused"


@pytest.mark.parametrize("name", [SHARD, "config.json", "manifest.json"])
def test_damaged_file_is_found(
    volume: Volume, hub: ModelHub, target: dict[str, Any], name: str
) -> None:
    hub.damages = {name}
    reason, message = publish(volume, target).failure
    assert reason == "TargetRejected"
    assert f"{name} differs" in message
    assert not hub.repos[REPO].tags


@pytest.mark.parametrize(
    ("method", "path", "status", "text", "reason", "said"),
    [
        (
            "POST",
            "/preupload/",
            401,
            "",
            "AccessDenied",
            "publish[main].huggingFace.tokenSecretRef",
        ),
        ("POST", "/commit/", 403, "no", "AccessDenied", "permission to write"),
        ("POST", "/commit/", 403, "Private repository storage limit reached", "TargetRejected", ""),
        ("POST", "/preupload/", 404, "", "TargetRejected", "publish[main].huggingFace.repo"),
        ("POST", "/commit/", 409, "conflict", "TargetConflict", "at the same time"),
        ("POST", "/commit/", 412, "moved", "TargetConflict", "at the same time"),
        ("POST", "/commit/", 413, "quota exceeded", "TargetRejected", "has no space left"),
        ("POST", "/commit/", 422, "bad", "TargetRejected", "hub.endpoint"),
        ("POST", "/commit/", 429, "slow down", "Transient", "next attempt"),
        ("PUT", "/lfs/", 507, "Insufficient Storage", "TargetRejected", "has no space left"),
        ("PUT", "/lfs/", 400, "digest", "TargetRejected", ""),
        ("POST", "/batch", 403, "no", "AccessDenied", "tokenSecretRef"),
        ("POST", "/tag/", 403, "no", "AccessDenied", "tokenSecretRef"),
        ("POST", "/create", 403, "no", "AccessDenied", "to create it"),
        ("GET", "/api/models", 503, "down", "Transient", "next attempt"),
    ],
)
def test_refusals_are_named(
    volume: Volume,
    hub: ModelHub,
    target: dict[str, Any],
    method: str,
    path: str,
    status: int,
    text: str,
    reason: str,
    said: str,
) -> None:
    hub.answers = [(method, path, status, text)] * 10
    done = publish(volume, target)
    found, message = done.failure
    assert found == reason, message
    assert said in message
    assert isinstance(done.error, Transient if reason == "Transient" else PublishFailed)
    hub.answers = []
    assert publish(volume, target).error is None


def test_hub_that_asks_to_wait_for_long(
    volume: Volume, hub: ModelHub, target: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends instead, and the operator starts it again."""
    waits: list[float] = []
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", waits.append)
    hub.retry_after = "100000"
    hub.answers = [("POST", "/batch", 429, "slow down")]
    reason, message = publish(volume, target).failure
    assert reason == "Transient"
    assert "limits the number of requests" in message
    assert not waits


def test_full_hub_is_named(volume: Volume, hub: ModelHub, target: dict[str, Any]) -> None:
    hub.capacity = 1000
    assert "has no space left" in publish(volume, target).failure[1]


def test_large_file_that_the_hub_wants_in_the_commit(
    volume: Volume, hub: ModelHub, target: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be held in memory."""
    from finetune_trainer.publishing.hub import push as publishing

    monkeypatch.setattr(publishing, "LARGEST_REGULAR", 1000)
    hub.large_names = ()
    reason, message = publish(volume, target).failure
    assert reason == "TargetRejected"
    assert SHARD in message


def test_owner_without_permission(volume: Volume, hub: ModelHub, target: dict[str, Any]) -> None:
    target["hugging_face"]["repo"] = "others/tiny"
    reason, message = publish(volume, target).failure
    assert reason == "AccessDenied"
    assert "others/tiny" in message


@pytest.mark.parametrize("environment", [{}, {"PUBLISH_MAIN_HF_TOKEN": "hf_wrong"}])
def test_wrong_token(
    volume: Volume,
    hub: ModelHub,
    target: dict[str, Any],
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A token of the process, which is for another purpose, is not used."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    reason, message = publish(volume, target, environment).failure
    assert reason == "AccessDenied"
    assert "hf_wrong" not in message


def test_token_with_a_line_break_is_not_quoted(
    volume: Volume, hub: ModelHub, target: dict[str, Any]
) -> None:
    reason, message = publish(volume, target, {"PUBLISH_MAIN_HF_TOKEN": "first\nsecond"}).failure
    assert reason == "AccessDenied"
    assert "second" not in message
    assert not hub.requests


def test_token_is_not_sent_to_another_host(
    volume: Volume, hub: ModelHub, other_hub: ModelHub, target: dict[str, Any]
) -> None:
    hub.verifies_at = other_hub.url
    reason, message = publish(volume, target).failure
    assert reason == "TargetRejected"
    assert other_hub.url in message
    assert not other_hub.requests


def test_hub_whose_address_is_not_in_its_canonical_form(
    volume: Volume, hub: ModelHub, target: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients write the host in lower case, so its requests still get the token."""
    original, port = socket.getaddrinfo, urlsplit(hub.url).port
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: original("127.0.0.1", *rest, **more)
    )
    monkeypatch.setattr(hub, "url", f"https://hub.corp.test:{port}")
    target["hugging_face"]["endpoint"] = f"https://Hub.Corp.Test:{port}"
    done = publish(volume, target)
    assert done.error is None, done.failure
    reason, message = publish(volume, target, {"PUBLISH_MAIN_HF_TOKEN": "hf_wrong"}).failure
    assert reason == "AccessDenied", message


def test_files_on_another_host(
    volume: Volume, hub: ModelHub, other_hub: ModelHub, target: dict[str, Any]
) -> None:
    """The hub stores large files elsewhere; signed addresses expire there."""
    hub.storage = other_hub.url
    other_hub.large, other_hub.parts = hub.large, hub.parts
    other_hub.answers = [("PUT", "/lfs/", 403, "Request has expired")]
    reason, message = publish(volume, target).failure
    assert reason == "Transient"
    assert "refuses a signed address" in message
    assert publish(volume, target).error is None
    assert other_hub.received


def test_untrusted_certificate_is_named(
    volume: Volume, hub: ModelHub, target: dict[str, Any]
) -> None:
    target["hugging_face"]["ca"] = None
    reason, message = publish(volume, target).failure
    assert reason == "InvalidSpec"
    assert "publish[main].huggingFace.caConfigMapRef" in message


def test_unreachable_hub_is_transient(
    volume: Volume, hub: ModelHub, target: dict[str, Any], unused_port: int
) -> None:
    target["hugging_face"]["endpoint"] = f"https://127.0.0.1:{unused_port}"
    assert publish(volume, target).failure[0] == "Transient"


def test_files_are_not_hashed_by_the_client(
    volume: Volume, hub: ModelHub, target: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.lfs, "sha_fileobj", None)
    monkeypatch.setattr(huggingface_hub._commit_api, "is_xet_available", lambda: True)
    assert publish(volume, target).error is None


def test_files_are_closed_after_a_failure(
    volume: Volume, hub: ModelHub, target: dict[str, Any]
) -> None:
    """The garbage collector would close them in any order, with a warning for some."""
    hub.answers = [("PUT", "/lfs/", 400, "digest")] * 10
    gc.disable()
    try:
        done = publish(volume, target)
        opened = [path.resolve() for path in Path("/proc/self/fd").iterdir()]
    finally:
        gc.enable()
    assert done.failure[0] == "TargetRejected"
    assert not [path for path in opened if path.is_relative_to(volume.layout.work)]


def test_client_of_the_process_is_restored(
    volume: Volume, hub: ModelHub, target: dict[str, Any]
) -> None:
    publish(volume, target)
    session = huggingface_hub.get_session()
    assert [each.__name__ for each in session.event_hooks["request"]] == ["hf_request_event_hook"]
    assert hub.url != constants.ENDPOINT
