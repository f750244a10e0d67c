"""Images that a stranger made: manifests, archives, and names that lead elsewhere."""

import gzip
import json
import tarfile
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.registry import Registry, digest_of
from tests.support.trainer import images
from tests.support.trainer.images import entry
from tests.support.trainer.web import Certificate

from finetune_api.contracts.destinations import Destinations, Hosts, NamespacePorts
from finetune_trainer.errors import EgressDenied, InvalidSpec
from finetune_trainer.sources.egress import Guard
from finetune_trainer.sources.oci import image_layers
from finetune_trainer.sources.oci.image_layers import Listing, Member
from finetune_trainer.sources.oci.image_manifest import Layer
from finetune_trainer.sources.oci.store import OCI

pytestmark = pytest.mark.finding(18, "an image of a stranger is hostile")

FILE = ("models/config.json", b"{}")


def pin(registry: Registry, certificate: Certificate) -> None:
    source = f"oci://{registry.host}/team/tiny:latest"
    OCI(kind="model", source=source, login=None, ca_file=certificate.authority).pin()


def refusal(registry: Registry, certificate: Certificate) -> str:
    with pytest.raises(InvalidSpec) as refused:
        pin(registry, certificate)
    message = str(refused.value)
    assert message.startswith("model oci://127.0.0.1:")
    assert len(message) < 1200
    return message


def sparse() -> bytes:
    return images.archive([entry("models/a", tarfile.GNUTYPE_SPARSE)])


def pax_sparse() -> bytes:
    info = tarfile.TarInfo("models/a")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    return images.archive([info], format=tarfile.PAX_FORMAT)


def with_header(kind: bytes, size: int) -> bytes:
    """A header that announces a long name, or other metadata, which does not follow."""
    info = entry("x", kind)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(4096)


def with_pax(record: bytes) -> bytes:
    info = entry("x", tarfile.XHDTYPE)
    info.size = len(record)
    padding = bytes(-len(record) % tarfile.BLOCKSIZE)
    return info.tobuf(tarfile.GNU_FORMAT) + record + padding + images.archive([FILE])


def wrong_checksum() -> bytes:
    data = bytearray(images.archive([FILE]))
    data[0:1] = b"n"
    return bytes(data)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (images.archive([("/models/a", b"")]), "which is absolute or has empty steps or dots"),
        (images.archive([("x/../models/a", b"")]), "which is absolute or has empty steps or dots"),
        (images.archive([("models//a", b"")]), "which is absolute or has empty steps or dots"),
        (images.archive([("models/./a", b"")]), "which is absolute or has empty steps or dots"),
        (images.archive([("models/a/../../models/b", b"")]), "which is absolute or has empty"),
        (images.archive([FILE, entry("models/a", tarfile.SYMTYPE, "/etc/passwd")]), "is a link"),
        (images.archive([FILE, entry("models/a", tarfile.LNKTYPE, "models/b")]), "is a link"),
        (images.archive([entry("models", tarfile.SYMTYPE, "/etc")]), "'/models' in it is a link"),
        (images.archive([FILE, entry("models/a", tarfile.CHRTYPE)]), "no regular file"),
        (images.archive([FILE, entry("models/a", tarfile.FIFOTYPE)]), "no regular file"),
        (images.archive([("models", b"")]), "no regular file"),
        (images.archive([FILE, FILE]), "has the file '/models/config.json' twice"),
        (images.archive([("models/\udcff", b"")]), "is not valid UTF-8"),
        (images.archive([("other/config.json", b"{}")]), "has no file below /models"),
        (sparse(), "is sparse"),
        (pax_sparse(), "no regular file"),
        (with_header(tarfile.GNUTYPE_LONGNAME, 1 << 33), "has 8,589,934,592 bytes"),
        (with_header(tarfile.XHDTYPE, 1 << 33), "has 8,589,934,592 bytes"),
        (with_header(tarfile.XGLTYPE, 1 << 33), "has 8,589,934,592 bytes"),
        (with_header(tarfile.REGTYPE, -1), "has the size -1"),
        (with_pax(b"20 size=99999999999\n" + b"x" * 9), "a pax header is damaged"),
        (with_pax(b"99 path=models/a\n"), "a pax header is damaged"),
        (with_pax(b"0 a=b\n"), "a pax header is damaged"),
        (with_pax(b"9 size=-1\n"), "a pax header is damaged"),
        (with_pax(b"11 size=-1\n"), "has the size '-1'"),
        (with_pax(b"16 size=" + "٣".encode() * 3 + b"\n\n"), "has the size '٣٣٣"),
        (wrong_checksum(), "the header of an entry is damaged"),
        (images.archive([FILE])[:700], "the archive ends within an entry"),
        (b"no archive" * 100, "the header of an entry is damaged"),
        (gzip.compress(images.archive([FILE]))[:-4], "its compressed data are truncated"),
        (b"\x1f\x8b" + b"x" * 100, "its compressed data are damaged"),
    ],
)
def test_layer_is_refused(
    registry: Registry, certificate: Certificate, layer: bytes, said: str
) -> None:
    images.push(registry, layer)
    assert said in refusal(registry, certificate)


def test_layer_with_other_bytes_than_its_digest_is_refused(
    registry: Registry, certificate: Certificate
) -> None:
    for pack in (bytes, gzip.compress):
        layer = pack(images.archive([FILE]))
        images.push(registry, layer)
        registry.blobs[digest_of(layer)] = pack(images.archive([("models/config.json", b"[]")]))
        manifest = json.loads(registry.manifests["latest"])
        manifest["layers"][0]["size"] = len(registry.blobs[digest_of(layer)])
        registry.tag("latest", json.dumps(manifest).encode())
        assert "returns other bytes for the layer sha256:" in refusal(registry, certificate)


def test_compressed_zeros_are_refused_with_little_memory(
    registry: Registry, certificate: Certificate
) -> None:
    """1 MiB expands to 1 GiB: neither memory nor time may follow the author of an image."""
    info = tarfile.TarInfo("models/a")
    info.size = 1 << 40
    packer, data = zlib.compressobj(wbits=31), b""
    data += packer.compress(info.tobuf())
    for _ in range(256):
        data += packer.compress(bytes(1 << 20))
    images.push(registry, data + packer.flush())
    tracemalloc.start()
    assert "compressed bytes expand to more than" in refusal(registry, certificate)
    assert tracemalloc.get_traced_memory()[1] < 24 << 20
    tracemalloc.stop()


def test_too_many_files_are_refused(
    registry: Registry, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_layers, "MOST_FILES", 10)
    images.push(registry, images.files({str(number): b"" for number in range(20)}))
    assert "has too many files" in refusal(registry, certificate)
    two = (images.files({f"{layer}{number}": b"" for number in range(8)}) for layer in "ab")
    images.push(registry, *two)
    assert "has more than 10 files below /models" in refusal(registry, certificate)


def test_too_many_removed_files_are_refused(
    registry: Registry, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_layers, "MOST_FILES", 10)
    removing = [
        images.archive([(f"models/{layer}/.wh.{number}", b"") for number in range(8)])
        for layer in "ab"
    ]
    images.push(registry, removing[0], images.files({"config.json": b"{}"}))
    pin(registry, certificate)
    images.push(registry, removing[0], removing[1], images.files({"config.json": b"{}"}))
    assert "removes more than 10 files below /models" in refusal(registry, certificate)
    many = images.archive([(f"models/.wh.{number}", b"") for number in range(20)])
    images.push(registry, many)
    assert "has too many files" in refusal(registry, certificate)


def test_removed_files_cost_little_time() -> None:
    most = image_layers.MOST_FILES
    layer = Layer(digest="", size=0, compressed=False, title=None)
    file = Member(layer=layer, offset=0, size=0, sha256="")
    depth = "d/" * 1000
    files = {f"{depth}{number}": file for number in range(most)}
    every = {f"{depth}x{number}" for number in range(most)}
    began = time.process_time()
    kept = image_layers.merged(iter([Listing(files=files), Listing(removed=every)]))
    assert kept == files
    assert time.process_time() - began < 20


def test_image_without_a_layer_advises_the_reader(
    registry: Registry, certificate: Certificate
) -> None:
    images.push(registry, images.files({"config.json": b"{}"}))
    registry.blobs.clear()
    message = refusal(registry, certificate)
    assert "check that the repository exists, and that the image is complete" in message


def test_long_names_are_refused(registry: Registry, certificate: Certificate) -> None:
    for length, folder in ((4096, "models"), (4097, "models"), (4097, "other")):
        name = f"{folder}/".ljust(length, "x")
        images.push(registry, images.archive([FILE, (name, b"")]))
        if (length, folder) == (4097, "models"):
            assert "has a path of 4,097 bytes" in refusal(registry, certificate)
        else:
            pin(registry, certificate)


GOOD: dict[str, Any] = {"mediaType": images.PLAIN, "digest": f"sha256:{'0' * 64}", "size": 1}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (b"no JSON", "its manifest is no JSON"),
        (b"[" * 100_000, "its manifest is no JSON"),
        (b"[]", "its manifest is no JSON object"),
        (b'"' + b"x" * (5 << 20) + b'"', "a document of more than 4,194,304 bytes"),
        ({}, "has no list of 1 to 4,096 layers"),
        ({"layers": []}, "has no list of 1 to 4,096 layers"),
        ({"layers": [GOOD] * 4097}, "has no list of 1 to 4,096 layers"),
        ({"layers": "x"}, "has no list of 1 to 4,096 layers"),
        ({"layers": ["x"]}, "refers to None, which is no SHA-256 digest"),
        ({"layers": [GOOD | {"digest": "sha256:../../x"}]}, "which is no SHA-256 digest"),
        ({"layers": [GOOD | {"digest": f"sha512:{'0' * 128}"}]}, "which is no SHA-256 digest"),
        ({"layers": [GOOD | {"size": -1}]}, "states the size -1"),
        ({"layers": [GOOD | {"size": 1 << 60}]}, "states the size 1152921504606846976"),
        ({"layers": [GOOD | {"size": 3 << 40}] * 2}, "its layers have more than 4 TiB"),
        ({"layers": [GOOD | {"size": True}]}, "states the size True"),
        ({"layers": [GOOD | {"size": "1"}]}, "states the size '1'"),
        ({"layers": [GOOD | {"mediaType": f"{images.PLAIN}+zstd"}]}, "tar+zstd': push the model"),
        ({"layers": [GOOD | {"mediaType": None}]}, "has the type None"),
        ({"manifests": []}, "several platforms (no image)"),
        ({"manifests": "x"}, "several platforms (no image)"),
        ({"manifests": [GOOD, "x", {"mediaType": images.MANIFEST}]}, "is no SHA-256 digest"),
    ],
    ids=lambda value: None if isinstance(value, str) else "",
)
def test_manifest_is_refused(
    registry: Registry, certificate: Certificate, document: Any, said: str
) -> None:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    registry.manifests["latest"] = text
    assert said in refusal(registry, certificate)


def test_index_of_an_index_and_another_manifest_are_refused(
    registry: Registry, certificate: Certificate
) -> None:
    inner = images.index(registry)
    images.index(registry, (inner, None))
    assert "its index refers to another index" in refusal(registry, certificate)
    own = images.push(registry, images.archive([FILE]), tag="own")
    images.index(registry, (own, None))
    registry.manifests[own] += b" "
    assert f"returns another manifest for {own}" in refusal(registry, certificate)


def test_redirect_without_tls_is_refused(registry: Registry, certificate: Certificate) -> None:
    images.push(registry, images.archive([FILE]))
    registry.redirect = "http://127.0.0.1:1/"
    assert "which is no https:// address" in refusal(registry, certificate)


@pytest.mark.parametrize("path", ["blobs", "token"])
def test_hosts_that_the_registry_names_are_announced(
    registry: Registry,
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
) -> None:
    """The policy of hosts applies to the registry, to its storage and to its token server."""
    images.push(registry, images.archive([FILE]))
    if path == "blobs":
        registry.redirect = "https://storage.elsewhere.test/"
    else:
        registry.user, registry.bearer = ("a", "b"), True
        registry.realm = "https://token.elsewhere.test/token"
    from finetune_trainer.sources import egress

    _check_with(guard("127.0.0.1"), monkeypatch, egress)
    with pytest.raises(EgressDenied, match=r"does not allow the host (storage|token)\.elsewhere"):
        pin(registry, certificate)
    _check_with(guard("other.test"), monkeypatch, egress)
    with pytest.raises(EgressDenied, match=r"does not allow the host 127\.0\.0\.1"):
        pin(registry, certificate)


def guard(host: str) -> Guard:
    allowed = Destinations(
        namespaces=(NamespacePorts(name="x", ports=(1,)),), hosts=Hosts(allow=(host,))
    )
    return Guard(allowed, domains=())


def _check_with(found: Guard, monkeypatch: pytest.MonkeyPatch, egress: Any) -> None:
    def announce(url: str, *, chosen_by_job: bool) -> None:
        host = url.split("/")[2].split(":")[0]
        found.check_request(host, 443, chosen_by_job=chosen_by_job)

    checked: Callable[..., None] = announce
    monkeypatch.setattr(egress, "announce", checked)


def test_nothing_is_written_outside_of_the_folder(
    registry: Registry, certificate: Certificate, tmp_path: Path
) -> None:
    """A file where another layer has a folder is an error, and no path of an image is used."""
    layers = (images.files({"a": b"1"}), images.files({"a/b": b"2"}))
    for pack in (bytes, gzip.compress):
        images.push(registry, *map(pack, layers))
        source = f"oci://{registry.host}/team/tiny"
        store = OCI(kind="model", source=source, login=None, ca_file=certificate.authority)
        folder = tmp_path / pack.__name__
        folder.mkdir()
        found = store.pin()
        with pytest.raises(InvalidSpec, match="cannot be the name of a file"):
            store.download(found, list(found.files), folder)
