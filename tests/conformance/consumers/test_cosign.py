"""cosign verifies the operator's statement about a published model with its public key.

Version 2 reads the tag of an image, version 3 its referrers.
"""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.consumers.cosign import Cosign
from tests.conformance.consumers.images import Image
from tests.fakes import object_store
from tests.support.trainer.publishing import Volume, run
from tests.support.trainer.statements import statements_about
from tests.support.trainer.web import Certificate

OFFLINE = ("--type=slsaprovenance1", "--insecure-ignore-tlog=true")
"""The statement has no entry in a transparency log."""
ROOT = {"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}
"""Trusts no service: version 2 would download the public services of Sigstore otherwise."""


def statements(output: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in output.splitlines() if line.strip()]
    return [json.loads(base64.b64decode(each["payload"])) for each in found]


@pytest.mark.parametrize("what", ["adapter", "merged"])
def test_the_statement_about_an_image_is_verified(
    publish: Callable[[str], Image], cosign: Cosign, keys: tuple[Path, Path], what: str
) -> None:
    image = publish(what)
    done = cosign.run("verify-attestation", "--key", keys[0], *OFFLINE, image.reference)
    assert done.returncode == 0, done.stderr
    (found,) = statements(done.stdout)
    digests = {each["digest"]["sha256"] for each in found["subject"]}
    assert digests == {image.digest.removeprefix("sha256:"), image.manifest}
    assert found["predicateType"] == "https://slsa.dev/provenance/v1"


def test_another_key_is_rejected(
    publish: Callable[[str], Image], cosign: Cosign, keys: tuple[Path, Path]
) -> None:
    image = publish("adapter")
    done = cosign.run("verify-attestation", "--key", keys[1], *OFFLINE, image.reference)
    assert done.returncode != 0
    assert not done.stdout


def test_an_image_without_a_statement_is_rejected(
    volume: Volume, host: str, certificate: Certificate, cosign: Cosign, keys: tuple[Path, Path]
) -> None:
    place = {"repository": f"{host}/team/unsigned", "ca": str(certificate.authority)}
    done = run(volume, volume.target("adapter", oci=place))
    reference = f"{host}/team/unsigned@{done.only.digest}"
    assert cosign.run("verify-attestation", "--key", keys[0], *OFFLINE, reference).returncode != 0


@pytest.mark.parametrize("change", [None, "file", "key"])
def test_the_statement_about_a_folder_is_verified(
    volume: Volume,
    certificate: Certificate,
    cosign: Cosign,
    keys: tuple[Path, Path],
    tmp_path: Path,
    change: str | None,
) -> None:
    """The bundle next to the files of an S3 target is about their manifest.json."""
    environment = {
        "PUBLISH_MAIN_AWS_ACCESS_KEY_ID": object_store.KEY,
        "PUBLISH_MAIN_AWS_SECRET_ACCESS_KEY": "a-secret-key",
    }
    with object_store.serving(certificate.context()) as store:
        place = {"uri": "s3://models/a", "endpoint": store.url, "ca": str(certificate.authority)}
        target = volume.target("adapter", s3=place)
        done = run(volume, target, environment=environment)
        signs = statements_about(done)
        assert run(volume, target | signs, environment=environment).error is None
        for key, (data, _) in store.objects.items():
            (tmp_path / key.rpartition("/")[2]).write_bytes(data)
    if change == "file":
        with (tmp_path / "manifest.json").open("ab") as file:
            file.write(b" ")
    (tmp_path / "root.json").write_text(json.dumps(ROOT))
    words: list[str | Path] = ["--bundle", tmp_path / "provenance.sigstore.json", *OFFLINE]
    words += ["--trusted-root", tmp_path / "root.json", "--key", keys[change == "key"]]
    verified = cosign.run("verify-blob-attestation", *words, tmp_path / "manifest.json")
    assert (verified.returncode == 0) is (change is None), verified.stderr
