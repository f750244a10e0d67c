"""What only cosign 3 does: it reads referrers, and signs images that a job may name as sources."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conformance.consumers.cosign import Cosign
from tests.conformance.consumers.images import Image
from tests.support.trainer.publishing import Volume, run
from tests.support.trainer.web import Certificate

from finetune_api.contracts.provenance.signatures import RequiredSignature
from finetune_trainer.errors import SourceNotSigned
from finetune_trainer.preparation.signed_sources import Signatures
from finetune_trainer.sources.oci.store import OCI

OFFLINE = ("--tlog-upload=false", "--use-signing-config=false", "--yes")


@pytest.mark.parametrize("host", ["go-containerregistry"], indirect=True)
def test_the_tag_with_the_statement_is_not_needed(
    publish: Callable[[str], Image],
    crane: Callable[..., bytes],
    cosign: Cosign,
    keys: tuple[Path, Path],
) -> None:
    image = publish("adapter")
    tag = f"{image.digest.replace(':', '-')}.att"
    repository = image.reference.partition("@")[0]
    crane("delete", f"{repository}:{tag}")
    assert tag not in crane("ls", repository).decode().split()
    words: list[str | Path] = [
        "--key",
        keys[0],
        "--type=slsaprovenance1",
        "--insecure-ignore-tlog=true",
    ]
    done = cosign.run("verify-attestation", *words, image.reference)
    assert done.returncode == 0, done.stderr


def test_a_source_that_cosign_has_signed_is_accepted_with_its_key_only(
    volume: Volume, host: str, certificate: Certificate, cosign: Cosign, tmp_path: Path
) -> None:
    place = {"repository": f"{host}/team/base", "ca": str(certificate.authority)}
    reference = f"{host}/team/base@{run(volume, volume.target('merged', oci=place)).only.digest}"
    source, own, other = f"oci://{reference}", tmp_path / "own", tmp_path / "other"
    for each in (own, other):
        made = cosign.run("generate-key-pair", "--output-key-prefix", each)
        assert made.returncode == 0, made.stderr
    store = OCI(kind="model", source=source, login=None, ca_file=certificate.authority)
    found = store.pin()

    def check(key: Path) -> None:
        required = RequiredSignature(sources=(".*",), keys=(key.read_text(),))
        Signatures([required], volume.layout).pinned("model", source, store, found)

    with pytest.raises(SourceNotSigned, match="has no signed statement"):
        check(own.with_suffix(".pub"))
    signed = cosign.run("sign", "--key", own.with_suffix(".key"), *OFFLINE, reference)
    assert signed.returncode == 0, signed.stderr
    check(own.with_suffix(".pub"))
    with pytest.raises(SourceNotSigned, match="no valid signature"):
        check(other.with_suffix(".pub"))
