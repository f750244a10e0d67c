"""The artifacts of a release that need neither Helm nor a registry."""

import dataclasses
import hashlib
import json
import subprocess
from pathlib import Path

import pytest
import yaml

from finetune_api.crd.resources import FINETUNEJOB
from finetune_api.v1alpha1.spec import FineTuneJobSpec
from release import chart, files, images
from release.location import InvalidLocation, Location, version_of_the_checkout
from supplychain import signing

ROOT = Path(__file__).parents[3]
LOCATION = Location(registry="registry.example.com:5000/team", version="0.1.0")
SETTINGS = images.Settings(
    engine="podman",
    base_image="docker.io/library/python@sha256:" + "b" * 64,
    source="https://git.example.com/a",
    builder="https://ci.example.com",
    key="awskms:///alias/release",
    log=True,
    dry_run=False,
)


@pytest.mark.parametrize(
    ("registry", "version", "said"),
    [
        ("https://registry.example.com", "0.1.0", "without a scheme"),
        ("", "0.1.0", "registry '' is invalid"),
        ("registry.example.com/Team", "0.1.0", "is invalid"),
        ("registry.example.com/", "0.1.0", "is invalid"),
        ("registry.example.com", "v0.1.0", "no semantic version"),
        ("registry.example.com", "", "no semantic version"),
    ],
)
def test_location_that_cannot_be_used_is_refused(registry: str, version: str, said: str) -> None:
    with pytest.raises(InvalidLocation, match=said):
        Location(registry=registry, version=version)


def test_images_are_distinguished_by_tag_and_licenses() -> None:
    found = {image.reference(LOCATION): image.licenses for image in images.IMAGES}
    assert found == {
        "registry.example.com:5000/team/finetune-operator:0.1.0": "Apache-2.0",
        "registry.example.com:5000/team/finetune-trainer:0.1.0": "Apache-2.0",
        "registry.example.com:5000/team/finetune-trainer:0.1.0-unsloth": (
            "Apache-2.0 AND AGPL-3.0-only AND LGPL-3.0-or-later"
        ),
    }


@pytest.mark.parametrize("image", images.IMAGES, ids=lambda image: image.name + image.suffix)
def test_each_image_is_built_labeled_pushed_and_signed_by_digest(
    image: images.Image, tmp_path: Path
) -> None:
    reference = image.reference(LOCATION)
    arguments = images.build_arguments(image, LOCATION, "c0ffee", SETTINGS)
    first, last = images.build(image, reference, arguments, "podman")
    assert first[:3] == ["podman", "build", f"--file={image.dockerfile}"]
    assert ("--build-arg=UNSLOTH=yes" in first) == (image.suffix == "-unsloth")
    assert {"--build-arg=VERSION=0.1.0", "--build-arg=REVISION=c0ffee"} <= set(first)
    assert f"--build-arg=BASE_IMAGE={SETTINGS.base_image}" in first
    assert f"--label=org.opencontainers.image.licenses={image.licenses}" in last
    assert f"--tag={reference}" in last
    file = tmp_path / "digest"
    assert images.push(reference, "docker", file) == ["docker", "push", reference]
    podman = ["podman", "push", f"--digestfile={file}", reference]
    assert images.push(reference, "podman", file) == podman
    for name in (image.dockerfile, images.LICENSES_DOCKERFILE):
        assert (ROOT / name).is_file()
    by_digest = f"{LOCATION.registry}/{image.name}@sha256:{'a' * 64}"
    signed = images.sign(image, by_digest, tmp_path / "x.spdx.json", arguments, SETTINGS)
    assert {by_digest, "--key=awskms:///alias/release", *first[3:-2]} <= set(signed)


def test_signatures_are_not_published_without_a_transparency_log() -> None:
    settings = dataclasses.replace(SETTINGS, log=False)
    signed = images.cosign("sign", settings, "chart@sha256:0")
    assert signed[3:] == ["--key", "awskms:///alias/release", "--tlog-upload=false", signed[-1]]
    image = images.sign(images.IMAGES[0], "image@sha256:0", Path("s"), {}, settings)
    assert image[-1] == "--no-transparency-log"
    steps = signing.commands(
        f"image@sha256:{'a' * 64}", sbom=Path("s"), provenance=Path("p"), log=False
    )
    assert all("--tlog-upload=false" in step for step in steps)


def test_compiled_files_and_environments_of_a_checkout_are_not_part_of_an_image() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert {"**/__pycache__", "**/*.pyc", ".venv", ".git"} <= set(lines)


def test_license_texts_are_added_to_every_image() -> None:
    text = (ROOT / images.LICENSES_DOCKERFILE).read_text()
    assert "COPY LICENSE NOTICE /usr/share/licenses/" in text
    assert text.rstrip().endswith("USER 1000:1000")


def test_manifest_has_its_namespace_and_no_trace_of_helm() -> None:
    rendered = (
        "---\nkind: A\nmetadata:\n  annotations:\n    helm.sh/resource-policy: keep\n  labels:\n"
        "    app.kubernetes.io/managed-by: Helm\n    helm.sh/chart: finetune-operator-0.1.0\n"
        "---\nkind: B\nmetadata:\n  annotations:\n    helm.sh/resource-policy: keep\n    a: b\n"
    )
    namespace, first, second = yaml.safe_load_all(chart.manifest(rendered))
    assert (namespace["kind"], namespace["metadata"]) == ("Namespace", {"name": "finetune-system"})
    assert first["metadata"] == {"labels": {"app.kubernetes.io/managed-by": "kubectl"}}
    assert second["metadata"] == {"annotations": {"a": "b"}}


def test_digest_of_a_pushed_chart() -> None:
    digest = "sha256:" + "a" * 64
    assert chart.digest(f"Pushed: r/charts/x:0.1.0\nDigest: {digest}\n") == digest


def test_schema_for_catalogues_describes_the_spec_and_refuses_unknown_fields() -> None:
    schema = json.loads(json.dumps(files.catalogue_schema(FINETUNEJOB)))
    spec = schema["properties"]["spec"]
    assert schema["additionalProperties"] is spec["additionalProperties"] is False
    assert set(spec["properties"]) == {info.alias for info in FineTuneJobSpec.model_fields.values()}


def test_checksums_cover_every_file_in_the_format_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"1")
    (tmp_path / "c").write_bytes(b"2")
    files.write_sums(tmp_path)
    files.write_sums(tmp_path)
    lines = (tmp_path / "SHA256SUMS").read_text().splitlines()
    assert lines == [
        f"{hashlib.sha256(b'1').hexdigest()}  a/b",
        f"{hashlib.sha256(b'2').hexdigest()}  c",
    ]


def test_version_is_that_of_the_project() -> None:
    assert Location(registry="r", version=version_of_the_checkout(ROOT))


ENGINE = """#!/bin/sh
echo "$*" >> "$CALLS"
case "$1" in
  run) echo "{}";;
  push) case "$2" in --digestfile=*) echo "sha256:$PUSHED" > "${2#*=}";; esac;;
  inspect) for last; do :; done; echo "[\\"${last%:*}@sha256:$DIGEST\\"]";;
esac
"""


@pytest.mark.parametrize(("engine", "digest"), [("docker", "d" * 64), ("podman", "e" * 64)])
def test_publishing_writes_digests_bills_of_materials_and_provenance(
    engine: str, digest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine and cosign are scripts; make conformance runs Podman and cosign.

    The digest that Podman reports for a local image is not that of the pushed one.
    """
    programs, folder = tmp_path / "bin", tmp_path / "dist"
    for path in (programs, folder):
        path.mkdir()
    for name, text in ((engine, ENGINE), ("cosign", '#!/bin/sh\necho "$*" >> "$CALLS"\n')):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("DIGEST", "d" * 64)
    monkeypatch.setenv("PUSHED", "e" * 64)
    settings = dataclasses.replace(SETTINGS, engine=engine)

    def run(command: list[str]) -> str:
        return subprocess.run(
            command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    images.publish(ROOT, LOCATION, folder, settings, run)
    names = ["finetune-operator", "finetune-trainer", "finetune-trainer-unsloth"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [f"{name}.{kind}.json" for name in names for kind in ("provenance", "spdx")]
        + ["images.json"]
    )
    digests = json.loads((folder / "images.json").read_text())
    assert digests == {image.reference(LOCATION): f"sha256:{digest}" for image in images.IMAGES}
    calls = (tmp_path / "calls").read_text().splitlines()
    # A failed build leaves no signature.
    first = next(number for number, line in enumerate(calls) if line.startswith("sign "))
    assert not any(line.startswith(("build ", "push ")) for line in calls[first:])
    signed = [line.rsplit(" ", 1)[1] for line in calls if line.startswith("sign ")]
    assert signed == [
        f"{LOCATION.registry}/{image.name}@sha256:{digest}" for image in images.IMAGES
    ]
