"""Images in a registry as sources: layouts, digests, resumption, credentials, and hosts."""

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.registry import Registry
from tests.support.trainer import images, publishing
from tests.support.trainer.publishing import BUILD, Volume
from tests.support.trainer.stores import DATA, assert_failed, download_all, sha256
from tests.support.trainer.web import Certificate
from tests.support.trainer.workshop import Workshop
from tests.trainer.conftest import MakeWorkshop

from finetune_api.contracts.job_config import JobConfig
from finetune_api.v1alpha1.training.start_from import StartFrom
from finetune_trainer.checkpointing import manifest
from finetune_trainer.errors import AccessDenied, InvalidSpec, ModelNotFound, Transient
from finetune_trainer.sources import open_store
from finetune_trainer.sources.oci import image_layers
from finetune_trainer.sources.oci.store import OCI, split
from finetune_trainer.volume_layout import Layout

USER = ("robot", "correct horse battery")
CONFIG = b'{"model_type": "llama"}'
MODEL = {"config.json": CONFIG, "model.safetensors": DATA, "sub/x.jinja": b"x"}


def oci(
    registry: Registry, certificate: Certificate, reference: str = ":latest", **more: Any
) -> OCI:
    options: dict[str, Any] = {"kind": "model", "login": None, "ca_file": certificate.authority}
    return OCI(source=f"oci://{registry.host}/team/tiny{reference}", **(options | more))


def login(registry: Registry, user: tuple[str, str] = USER) -> str:
    entry = {"username": user[0], "password": user[1]}
    return json.dumps({"auths": {registry.host: entry}})


@pytest.fixture
def published(shared_volume: Volume, registry: Registry, certificate: Certificate) -> Path:
    """The folder of a merged model that is published in the registry."""
    place = {"repository": f"{registry.host}/team/tiny", "ca": str(certificate.authority)}
    done = publishing.run(
        shared_volume, shared_volume.target("merged", oci=place, tags=("latest",))
    )
    assert done.error is None
    registry.requests.clear()
    return shared_volume.layout.merged(BUILD)


@pytest.mark.parametrize("ranges", [True, False])
def test_published_image_is_read_file_by_file(
    published: Path, registry: Registry, certificate: Certificate, tmp_path: Path, ranges: bool
) -> None:
    registry.ranges = ranges
    registry.asked.clear()
    store = oci(registry, certificate)
    found = store.pin()
    assert f"sha256:{found.commit}" in registry.manifests
    assert registry.manifests[f"sha256:{found.commit}"] == registry.manifests["latest"]
    # Only the list of the files has been read as a whole.
    assert [part for _, part in registry.asked] == [None]
    files = download_all(oci(registry, certificate, f"@sha256:{found.commit}"), tmp_path / "a")
    listed = {each["name"] for each in json.loads(files["manifest.json"])["files"]}
    assert files.keys() == listed | {"manifest.json"}
    for name in listed:
        assert files[name] == (published / name).read_bytes()
    assert "additional_chat_templates/tools.jinja" in files
    assert files.keys() >= {"config.json", "empty.safetensors"}
    assert all(part is not None for _, part in registry.asked[2:])


def test_file_of_a_published_image_that_differs_from_the_list_is_refused(
    published: Path, registry: Registry, certificate: Certificate, tmp_path: Path
) -> None:
    document = json.loads(registry.manifests["latest"])
    (layer,) = [
        each
        for each in document["layers"]
        if each["annotations"]["org.opencontainers.image.title"] == "config.json"
    ]
    data = registry.blobs[layer["digest"]]
    registry.blobs[layer["digest"]] = data.replace(b"{}", b"[]")
    store = oci(registry, certificate)
    with pytest.raises(Transient, match=r"config\.json of model oci://.* is damaged"):
        store.download(store.pin(), ["config.json"], tmp_path)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize("packed", [False, True], ids=["tar", "tar+gzip"])
def test_foreign_image_is_read_like_a_runtime_unpacks_it(
    registry: Registry, certificate: Certificate, tmp_path: Path, packed: bool
) -> None:
    system = images.archive(
        [
            images.entry("bin", tarfile.DIRTYPE),
            ("bin/busybox", b"program"),
            images.entry("bin/sh", tarfile.SYMTYPE, "busybox"),
            images.entry("bin/ls", tarfile.LNKTYPE, "bin/busybox"),
            images.entry("dev/null", tarfile.CHRTYPE),
        ]
    )
    first = images.files({"config.json": b"old", "removed.txt": b"1", "gone/a": b"2"})
    long_name = f"{'long-' * 30}name.txt"
    second = images.archive(
        [
            ("models/.wh.removed.txt", b""),
            ("models/gone/.wh..wh..opq", b""),
            *((f"./models/{name}", data) for name, data in MODEL.items()),
            (f"models/{long_name}", b"3"),
        ]
    )
    pax = images.archive(
        [(f"models/{'pax-' * 40}", b"4"), ("models/grüße.txt", b"5")], format=tarfile.PAX_FORMAT
    )
    layers = [system, first, second, pax, images.archive([])]
    digest = images.push(registry, *(map(images.compressed, layers) if packed else layers))
    store = oci(registry, certificate)
    assert download_all(store, tmp_path / "a") == {
        **MODEL,
        long_name: b"3",
        "pax-" * 40: b"4",
        "grüße.txt": b"5",
    }
    found = store.pin()
    assert found.commit == digest.removeprefix("sha256:")
    assert {name: each.sha256 for name, each in found.files.items() if name in MODEL} == {
        name: sha256(data) for name, data in MODEL.items()
    }


def test_layer_that_removes_the_folder_of_the_model(
    registry: Registry, certificate: Certificate, tmp_path: Path
) -> None:
    layers = [
        images.files({"a": b"1"}),
        images.archive([(".wh.models", b"")]),
        images.files({"b": b"2"}),
    ]
    images.push(registry, *layers)
    assert download_all(oci(registry, certificate), tmp_path) == {"b": b"2"}


def test_large_file_of_a_compressed_layer_is_read_from_a_second_stream(
    registry: Registry,
    certificate: Certificate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(image_layers, "SMALL", 1000)
    layer = images.compressed(images.files({**MODEL, "other.safetensors": DATA[::-1]}))
    images.push(registry, layer)
    store = oci(registry, certificate)
    found = store.pin()
    registry.asked.clear()
    store.download(found, ["config.json"], tmp_path)
    assert registry.asked == []
    # Both files come from one stream, which continues after an interruption.
    registry.download_cuts = [200_000]
    weights = ["model.safetensors", "other.safetensors"]
    digests = store.download(found, weights, tmp_path)
    assert digests == {name: sha256((tmp_path / name).read_bytes()) for name in weights}
    assert [part and part.split("-")[0] for _, part in registry.asked] == [None, "bytes=200000"]
    registry.asked.clear()
    assert store.download(found, weights, tmp_path) == digests
    assert registry.asked == []
    (tmp_path / "model.safetensors").write_bytes(b"x" * len(DATA))
    assert store.download(found, weights, tmp_path) == digests
    assert (tmp_path / "model.safetensors").read_bytes() == DATA


def test_interrupted_downloads_continue(
    registry: Registry, certificate: Certificate, tmp_path: Path
) -> None:
    layer = images.files(MODEL)
    images.push(registry, layer)
    registry.download_cuts = [100_000, 50_000]
    store = oci(registry, certificate)
    found = store.pin()
    assert registry.asked[1][1] == f"bytes=100000-{len(layer) - 1}"
    registry.asked.clear()
    registry.download_cuts = [70_000]
    store.download(found, ["model.safetensors"], tmp_path)
    first, second = (str(part).removeprefix("bytes=").split("-") for _, part in registry.asked)
    assert int(second[0]) - int(first[0]) == 70_000
    assert first[1] == second[1]
    assert (tmp_path / "model.safetensors").read_bytes() == DATA
    registry.download_cuts = [0] * 10
    with pytest.raises(Transient, match="the registry is unreachable or fails for model oci://"):
        store.pin()


def test_image_of_this_platform_is_chosen(
    registry: Registry, certificate: Certificate, tmp_path: Path
) -> None:
    own, other, build = (
        images.push(registry, images.files({"config.json": text}), tag=text.decode())
        for text in (b"own", b"other", b"build")
    )
    arm = {"os": "linux", "architecture": "arm64"}
    attestation = (build, {"os": "unknown", "architecture": "unknown"})
    for listed, expected in (
        ([(other, arm), (own, {"os": "linux", "architecture": "amd64"}), attestation], own),
        ([(other, arm), attestation], other),
        ([(own, None)], own),
    ):
        images.index(registry, *listed)
        store = oci(registry, certificate)
        assert f"sha256:{store.pin().commit}" == expected
    images.index(registry, (other, arm), (own, {"os": "windows", "architecture": "amd64"}))
    with pytest.raises(InvalidSpec, match=r"\(linux/arm64, windows/amd64\), and none for linux/"):
        oci(registry, certificate).pin()


def test_tag_that_moves_is_another_state(registry: Registry, certificate: Certificate) -> None:
    first = images.push(registry, images.files({"config.json": b"1"}))
    store = oci(registry, certificate)
    assert f"sha256:{store.pin().commit}" == first
    second = images.push(registry, images.files({"config.json": b"2"}))
    assert f"sha256:{store.pin().commit}" == second
    assert f"sha256:{oci(registry, certificate, f'@{first}').pin().commit}" == first


def test_reference_is_split() -> None:
    digest = f"sha256:{'0' * 64}"
    assert split("oci://r.test:5000/a/b") == ("r.test:5000/a/b", "latest")
    assert split("oci://r.test:5000/a/b:v1") == ("r.test:5000/a/b", "v1")
    assert split(f"oci://r.test/a@{digest}") == ("r.test/a", digest)


@pytest.mark.parametrize("bearer", [False, True], ids=["Basic", "Bearer"])
def test_credentials_ask_for_no_more_than_reading(
    registry: Registry, certificate: Certificate, tmp_path: Path, bearer: bool
) -> None:
    images.push(registry, images.files(MODEL))
    registry.user, registry.bearer, registry.actions = USER, bearer, "pull"
    with pytest.raises(AccessDenied, match=r"set model\.oci\.secretRef to a Secret with cred"):
        oci(registry, certificate).pin()
    with pytest.raises(AccessDenied, match=r"in model\.oci\.secretRef .* permission to pull$"):
        oci(registry, certificate, login=login(registry, ("robot", "wrong"))).pin()
    store = oci(registry, certificate, login=login(registry))
    assert download_all(store, tmp_path) == MODEL


def test_token_that_expires_is_renewed(
    registry: Registry, certificate: Certificate, tmp_path: Path
) -> None:
    images.push(registry, images.files(MODEL))
    registry.user, registry.bearer, registry.actions, registry.uses = USER, True, "pull", 1
    assert download_all(oci(registry, certificate, login=login(registry)), tmp_path) == MODEL


def test_credentials_never_leave_the_registry(
    registry: Registry, elsewhere: Registry, certificate: Certificate, tmp_path: Path
) -> None:
    images.push(registry, images.files(MODEL))
    registry.user = USER
    elsewhere.blobs = dict(registry.blobs)
    registry.redirect = f"https://{elsewhere.host}/"
    assert download_all(oci(registry, certificate, login=login(registry)), tmp_path) == MODEL
    assert elsewhere.requests
    assert elsewhere.authorizations == {None}
    elsewhere.requests.clear()
    registry.bearer, registry.realm = True, "https://token.elsewhere.test/token"
    with pytest.raises(InvalidSpec, match=r"asks for its credentials at 'https://token\.els"):
        oci(registry, certificate, login=login(registry)).pin()
    # Anything else asks for credentials there: it gets none.
    registry.bearer, elsewhere.user = False, ("someone", "else")
    with pytest.raises(AccessDenied):
        oci(registry, certificate, login=login(registry)).pin()
    assert elsewhere.authorizations == {None}


def test_adapter_to_continue_from_has_a_login_and_certificates_of_its_own(
    registry: Registry,
    certificate: Certificate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = {"adapter_config.json": CONFIG, "adapter_model.safetensors": DATA}
    images.push(registry, images.files(found))
    registry.user = USER
    (tmp_path / "ca").mkdir()
    shutil.copy(certificate.authority, tmp_path / "ca" / "training.startFrom.crt")
    monkeypatch.setenv("FINETUNE_CONFIG_DIR", str(tmp_path))
    part = StartFrom(source=f"oci://{registry.host}/team/tiny:latest")
    # The login of the model is not one of the adapter.
    monkeypatch.setenv("MODEL_DOCKER_CONFIG_JSON", login(registry))
    with pytest.raises(AccessDenied, match=r"set training\.startFrom\.oci\.secretRef to a Secret"):
        open_store("training.startFrom", part).pin()
    monkeypatch.setenv("TRAINING_STARTFROM_DOCKER_CONFIG_JSON", login(registry))
    assert download_all(open_store("training.startFrom", part), tmp_path / "a") == found
    missing = StartFrom(source=f"oci://{registry.host}/team/tiny:v2")
    with pytest.raises(ModelNotFound, match=r"correct training\.startFrom\.source"):
        open_store("training.startFrom", missing).pin()


def test_published_adapter_proves_its_base(
    make: MakeWorkshop,
    done: Workshop,
    base: Path,
    registry: Registry,
    certificate: Certificate,
    tmp_path: Path,
) -> None:
    layout = Layout(work=done.work)
    trained = Volume(
        job=JobConfig.model_validate(done.job),
        layout=layout,
        base=manifest.read(layout.base).sha256,
        adapter=manifest.read(layout.adapter).sha256,
        merged="",
    )
    repository = f"{registry.host}/team/tiny"
    place = {"repository": repository, "ca": str(certificate.authority)}
    target = trained.target(oci=place, tags=("latest",))
    assert publishing.run(trained, target).error is None
    (tmp_path / "ca").mkdir()
    for kind in ("training.startFrom", "model"):
        shutil.copy(certificate.authority, tmp_path / "ca" / f"{kind}.crt")
    settings = {"FINETUNE_CONFIG_DIR": str(tmp_path)}
    start = {"training": {"startFrom": {"source": f"oci://{repository}:latest"}}}
    workshop = make(**start)
    ended = workshop.run("prepare", **settings)
    assert ended.code == 0, ended.log
    commit = manifest.read(layout.base).facts["baseCommit"]
    assert manifest.read(workshop.work / "start").facts["baseCommit"] == commit
    assert not [each for each in ended.result["warnings"] if "nothing proves" in each]
    # A model of the same name, but of another commit.
    other = images.files({path.name: path.read_bytes() for path in base.iterdir()})
    images.push(registry, other, tag="copy")
    copied = make(model={"source": f"oci://{repository}:copy"}, **start)
    said = f"in training.startFrom was trained on commit {commit} of hf://demo/tiny, but the model"
    assert_failed(copied.run("prepare", **settings), 64, "InvalidSpec", said)


def test_secret_without_a_login_for_the_registry(
    registry: Registry, certificate: Certificate
) -> None:
    for text, said in (
        ("password", "is not a Docker configuration"),
        ('{"credsStore": "desktop"}', "only the name of a credential helper"),
    ):
        with pytest.raises(AccessDenied, match=said) as refused:
            oci(registry, certificate, login=text)
        assert "the Secret in model.oci.secretRef" in str(refused.value)


def test_missing_image_and_untrusted_certificate(
    registry: Registry, certificate: Certificate, unused_port: int
) -> None:
    with pytest.raises(ModelNotFound, match=r"^model oci://.*:v2 does not exist: correct model\.s"):
        oci(registry, certificate, ":v2").pin()
    with pytest.raises(InvalidSpec, match=r"set model\.caConfigMapRef to a ConfigMap with its cer"):
        oci(registry, certificate, ca_file=None).pin()
    gone = Registry(host=f"127.0.0.1:{unused_port}")
    with pytest.raises(Transient, match="the registry is unreachable or fails for model oci://"):
        oci(gone, certificate).pin()


def test_prepare_reads_a_base_from_a_registry_and_the_base_cache(
    make: MakeWorkshop, base: Path, registry: Registry, certificate: Certificate, tmp_path: Path
) -> None:
    files = {path.name: path.read_bytes() for path in base.iterdir()}
    digest = images.push(registry, images.compressed(images.files(files)))
    (tmp_path / "ca").mkdir()
    shutil.copy(certificate.authority, tmp_path / "ca" / "model.crt")
    registry.user = USER
    source = f"oci://{registry.host}/team/tiny:latest"
    settings = {"FINETUNE_CONFIG_DIR": str(tmp_path), "MODEL_DOCKER_CONFIG_JSON": login(registry)}
    workshop = make(model={"source": source})
    ended = workshop.run("prepare", **settings)
    assert ended.code == 0, ended.log
    assert ended.result["artifacts"]["baseCommit"] == digest.removeprefix("sha256:")
    found = manifest.read(workshop.work / "base")
    assert found.facts == {"source": source, "baseCommit": digest.removeprefix("sha256:")}
    assert {entry.name: entry.sha256 for entry in found.files} == {
        name: sha256(data) for name, data in files.items()
    }
    folder = f"models--{registry.host}--team--tiny/snapshots/{digest.removeprefix('sha256:')}"
    shutil.copytree(base, tmp_path / folder)
    workshop = make(model={"source": source})
    ended = workshop.run("prepare", **settings, FINETUNE_BASE_CACHE=str(tmp_path))
    assert ended.code == 0, ended.log
    assert "were copied from the base cache" in ended.log
    adapter = images.files({"adapter_config.json": b"{}", "adapter_model.safetensors": b""})
    images.push(registry, adapter)
    ended = make(model={"source": source}).run("prepare", **settings)
    assert_failed(ended, 64, "InvalidSpec", "is an adapter, not a base")
