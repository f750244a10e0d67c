"""``ftj verify`` of a folder in a bucket: the same answers as for a folder on this machine."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.object_store import KEY as ACCESS_KEY
from tests.fakes.object_store import Store
from tests.support.published_facts import COMMIT
from tests.support.published_folder import CONTENT, Published, Shown
from tests.support.signing_keys import new_key
from tests.support.trainer.publishing import PYTHONPATH
from tests.support.trainer.web import Bucket, Certificate

from finetune_cli import __main__ as ftj
from finetune_cli.verifying import bucket as verifying
from finetune_cli.verifying.failures import Code
from finetune_trainer.publishing.s3 import read_back

BOTH = ("model.sig", "provenance.sigstore.json")
PLACE = "team/sha256-1"
LARGE = "model.safetensors"


@pytest.fixture(autouse=True)
def _user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user without any configuration, and no identity of the machine."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


class InBucket:
    """A published folder in the bucket of a fake service."""

    def __init__(
        self, published: Published, store: Store, certificate: Certificate, capsys: Any
    ) -> None:
        self.published, self.store = published, store
        self._certificate, self._capsys = certificate, capsys
        for path in published.folder.rglob("*"):
            if path.is_file():
                self.put(path.relative_to(published.folder).as_posix(), path.read_bytes())

    def put(self, name: str, data: bytes) -> None:
        self.store.objects[f"{PLACE}/{name}"] = (data, {})

    def get(self, name: str) -> bytes:
        return self.store.objects[f"{PLACE}/{name}"][0]

    def verify(self, *options: str, place: str = f"models/{PLACE}/") -> Shown:
        given = ["--endpoint", self.store.url, "--ca", str(self._certificate.authority)]
        key = ["--key", str(self.published.key)]
        code = ftj.main(["verify", f"s3://{place}", *key, *given, *options])
        return code, *self._capsys.readouterr()


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-key")


@pytest.fixture(params=[BOTH[:1], BOTH[1:], BOTH], ids=["model.sig", "provenance", "both"])
def stored(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    store: Store,
    certificate: Certificate,
    login: None,
    capsys: pytest.CaptureFixture[str],
) -> InBucket:
    (tmp_path / "model").mkdir()
    return InBucket(Published(tmp_path / "model", request.param), store, certificate, capsys)


@pytest.fixture
def provenance(
    tmp_path: Path,
    store: Store,
    certificate: Certificate,
    login: None,
    capsys: pytest.CaptureFixture[str],
) -> InBucket:
    (tmp_path / "model").mkdir()
    return InBucket(Published(tmp_path / "model", BOTH[1:]), store, certificate, capsys)


def test_output_is_that_of_a_downloaded_folder(
    stored: InBucket, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text, said = stored.verify()
    assert code == 0, said
    assert (code, text, said) == stored.published.verify(capsys)
    assert "all 4 files match" in said


@pytest.mark.parametrize("name", [*CONTENT, "manifest.json"])
@pytest.mark.parametrize("place", ["first", "last", "appended", "cut"])
def test_a_changed_byte_is_found(stored: InBucket, name: str, place: str) -> None:
    data = bytearray(stored.get(name))
    match place:
        case "appended":
            data += b"\n"
        case "cut":
            del data[-1]
        case _:
            data[{"first": 0, "last": len(data) - 1}[place]] ^= 1
    stored.put(name, bytes(data))
    code, text, said = stored.verify()
    assert code == Code.CHANGED, said
    assert f"{name} is changed since it was signed" in said
    assert not text


@pytest.mark.parametrize("name", [*CONTENT, "manifest.json"])
def test_a_missing_object_is_found(stored: InBucket, name: str) -> None:
    del stored.store.objects[f"{PLACE}/{name}"]
    code, _, said = stored.verify()
    assert code == Code.MISSING
    assert f"{name} is missing" in said


@pytest.mark.parametrize("name", ["extra.bin", ".hidden", "tokenizer/model.sig", "/config.json"])
def test_an_additional_object_is_found_and_not_read(stored: InBucket, name: str) -> None:
    stored.put(name, b"")
    code, _, said = stored.verify()
    assert code == Code.EXTRA, said
    assert f"{name} is not part of the signed model" in said
    assert f"{PLACE}/{name}" not in {key for key, _ in stored.store.asked}


@pytest.mark.parametrize("holds_it", [True, False])
def test_the_folder_of_a_model_holds_this_model(stored: InBucket, holds_it: bool) -> None:
    """The operator signs the models of all tenants: one of another tenant is no proof."""
    content = stored.get("manifest.json") if holds_it else b"of the model that was published here"
    digest = hashlib.sha256(content).hexdigest()
    objects = stored.store.objects
    for key in list(objects):
        objects[key.replace(PLACE, f"team/sha256-{digest}")] = objects.pop(key)
    code, text, said = stored.verify(place=f"models/team/sha256-{digest}/")
    if holds_it:
        assert code == 0, said
    else:
        assert code == Code.NOT_SIGNED, said
        assert f"sha256-{digest} contains another signed model" in said
        assert not text


def test_an_object_that_stands_for_a_folder_is_no_file(stored: InBucket) -> None:
    stored.put("", b"")
    stored.put("tokenizer/", b"")
    assert stored.verify()[0] == 0
    stored.put("tokenizer/", b"content")
    assert stored.verify()[0] == Code.EXTRA


def test_only_objects_below_the_folder_belong_to_it(stored: InBucket) -> None:
    stored.store.objects[f"{PLACE}0/other.bin"] = (b"other", {})
    assert stored.verify()[0] == 0


def test_another_key_is_rejected_before_a_file_is_read(stored: InBucket) -> None:
    stored.published.key.write_bytes(new_key().public_key)
    code, text, said = stored.verify()
    assert code == Code.NOT_SIGNED
    assert "no valid signature of the key" in said
    assert not text
    assert not any(key.endswith(LARGE) for key, _ in stored.store.asked)


@pytest.mark.parametrize(("base", "code"), [("org/base", 0), ("org/other", Code.OTHER_BASE)])
def test_the_base_is_compared(provenance: InBucket, base: str, code: int) -> None:
    found, _, said = provenance.verify("--base", base)
    assert found == code
    if code:
        assert f"tuned from hf://org/base@{COMMIT}" in said


def test_a_folder_without_a_statement_is_not_verified(provenance: InBucket) -> None:
    del provenance.store.objects[f"{PLACE}/provenance.sigstore.json"]
    code, _, said = provenance.verify()
    assert code == Code.NO_STATEMENT
    assert f"s3://models/{PLACE}/ has no signed statement" in said


@pytest.mark.parametrize("place", ["models/elsewhere", "absent/x"])
def test_a_missing_folder_or_bucket_is_named(provenance: InBucket, place: str) -> None:
    code, _, said = provenance.verify(place=place)
    assert code == Code.MISSING, said
    assert f"s3://{place}" in said
    assert "does not exist" in said


def test_interrupted_downloads_resume(
    provenance: InBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_back, "PAUSES", (0.0, 0.0))
    provenance.store.cuts = [5000, 100]
    code, _, said = provenance.verify()
    assert code == 0, said
    ranges = [asked for key, asked in provenance.store.asked if key.endswith(LARGE)]
    assert ranges == [None, "bytes=5000-", "bytes=5100-"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((403, "AccessDenied"), "denies access to s3://models/"),
        ((400, "ExpiredToken"), "AWS_SECRET_ACCESS_KEY, to a key with the permissions"),
        ((501, "NotImplemented"), "correct --endpoint and --region"),
        ((307, "TemporaryRedirect"), "the store fails for"),
    ],
)
def test_refusals_are_named(provenance: InBucket, answer: tuple[int, str], words: str) -> None:
    provenance.store.answers = [("GET", *answer)] * 10
    code, text, said = provenance.verify()
    assert (code, text) == (1, "")
    assert words in said


def test_credentials_are_those_of_the_user(
    provenance: InBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    code, _, said = provenance.verify()
    assert code == 1
    assert "set AWS_PROFILE, or AWS_ACCESS_KEY_ID" in said
    assert provenance.store.keys == {""}, "requests without credentials are anonymous"


def test_an_unknown_profile_is_named(provenance: InBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "absent")
    code, _, said = provenance.verify()
    assert code == 1
    assert "absent" in said
    assert "AWS configuration of this machine" in said


def test_an_untrusted_certificate_is_named(
    provenance: InBucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--ca", str(tmp_path / "ca.crt")]
    (tmp_path / "ca.crt").write_text("no certificate")
    code, _, said = provenance.verify(*own)
    assert code == 1
    assert "has no CA certificates in PEM format" in said
    reference = ["verify", f"s3://models/{PLACE}", "--key", str(provenance.published.key)]
    code = ftj.main([*reference, "--endpoint", provenance.store.url])
    assert code == 1
    assert "name a file with its certificate authority in --ca" in capsys.readouterr().err


def test_an_unreachable_service_is_named(provenance: InBucket, unused_port: int) -> None:
    code, _, said = provenance.verify("--endpoint", f"https://127.0.0.1:{unused_port}")
    assert code == 1
    assert "cannot be read" in said
    assert "correct --endpoint" in said


@pytest.mark.parametrize("place", ["models", "models/", "m/x", "mod els/x", "models//"])
def test_a_reference_names_a_folder(provenance: InBucket, place: str) -> None:
    code, _, said = provenance.verify(place=place)
    assert code == 1
    assert "write it as s3://BUCKET/FOLDER" in said


@pytest.mark.parametrize("endpoint", ["store.example.com", "ftp://store", "https:///x"])
def test_an_endpoint_is_a_url(provenance: InBucket, endpoint: str) -> None:
    code, _, said = provenance.verify("--endpoint", endpoint)
    assert code == 1
    assert f"--endpoint {endpoint} is no URL" in said


def test_all_pages_of_the_list_are_read(provenance: InBucket) -> None:
    provenance.store.page = 2
    assert provenance.verify()[0] == 0
    provenance.put("zzz", b"")
    assert provenance.verify()[0] == Code.EXTRA


def test_a_folder_with_very_many_objects_is_no_model(
    provenance: InBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifying, "MOST_OBJECTS", 4)
    code, _, said = provenance.verify()
    assert code == Code.EXTRA
    assert "more than 4 objects" in said


def test_a_folder_in_another_implementation_of_s3(
    tmp_path: Path,
    bucket: Bucket,
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Moto, written by boto3."""
    (tmp_path / "model").mkdir()
    published = Published(tmp_path / "model", BOTH[1:])
    for path in published.folder.rglob("*"):
        if path.is_file():
            name = path.relative_to(published.folder).as_posix()
            bucket.put(f"verified/{name}", path.read_bytes())
    for name, value in bucket.allowed.items():
        monkeypatch.setenv(name, value)
    command = ["verify", f"s3://{bucket.name}/verified", "--key", str(published.key)]
    command += ["--endpoint", bucket.url, "--ca", str(certificate.authority)]
    command += ["--region", "eu-central-1"]
    assert ftj.main(command) == 0, capsys.readouterr().err
    bucket.put("verified/tokenizer/extra", b"")
    assert ftj.main(command) == Code.EXTRA


def test_memory_does_not_grow_with_the_model(
    tmp_path: Path, store: Store, certificate: Certificate, login: None, capsys: Any
) -> None:
    peaks = []
    for number, weights in enumerate((b"small", bytes(96 << 20))):
        folder = tmp_path / str(number) / "model"
        folder.mkdir(parents=True)
        published = Published(folder, BOTH[1:], CONTENT | {LARGE: weights})
        peaks.append(_peak(InBucket(published, store, certificate, capsys), certificate))
    assert peaks[1] - peaks[0] < 32 << 20, peaks


def _peak(stored: InBucket, certificate: Certificate) -> int:
    """Verify in a process of its own, and return its largest resident memory in bytes."""
    program = (
        "import sys; from finetune_cli.__main__ import main; assert main(sys.argv[1:]) == 0; "
        "print(open('/proc/self/status').read(), file=sys.stderr)"
    )
    options = ["--endpoint", stored.store.url, "--ca", str(certificate.authority)]
    reference = ["verify", f"s3://models/{PLACE}", "--key", str(stored.published.key)]
    done = subprocess.run(
        [sys.executable, "-c", program, *reference, *options],
        env=os.environ | {"PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"VmHWM:\s+(\d+) kB", done.stderr)
    assert found is not None
    return int(found[1]) << 10
