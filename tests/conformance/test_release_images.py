"""The images, the chart and the checksums of a release are signed and described."""

import json
import subprocess

import pytest
from tests.conformance.release import Release
from tests.support.releases import VERSION, Registry

IMAGES = ("finetune-operator", "finetune-trainer", "finetune-trainer-unsloth")
# Of signatures that are not in the transparency log.
VERIFIED = ("--key=cosign.pub", "--insecure-ignore-tlog=true")

pytestmark = pytest.mark.timeout(3600)


def test_images_chart_and_checksums_are_signed(release: Release, registry: Registry) -> None:
    digests = release.digests()
    assert len(digests) == len(IMAGES)
    for reference, digest in digests.items():
        # cosign also signs a digest that the registry does not have.
        assert registry.digest(reference) == digest
        image = f"{reference.rpartition(':')[0]}@{digest}"
        release.cosign("verify", *VERIFIED, image)
        for kind in ("spdxjson", "slsaprovenance1"):
            release.cosign("verify-attestation", *VERIFIED, f"--type={kind}", image)
    release.cosign("verify", *VERIFIED, f"{registry.location}/charts/finetune-operator:{VERSION}")
    sums = release.folder / "SHA256SUMS"
    release.cosign("verify-blob", *VERIFIED, f"--bundle={sums}.sigstore.json", str(sums))
    subprocess.run(["sha256sum", "--check", "--quiet", sums], cwd=release.folder, check=True)


def test_bill_of_materials_of_each_image_lists_its_packages(release: Release) -> None:
    for name in IMAGES:
        bill = json.loads((release.folder / f"{name}.spdx.json").read_text())
        packages = {each["name"] for each in bill["packages"]}
        assert ("torch" in packages) == ("trainer" in name), name
        assert ("unsloth" in packages) == name.endswith("-unsloth"), name
