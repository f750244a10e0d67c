"""Another package, image or build replaces what a release contains.

No case needs a network. The images are built, and the packages are installed, by other tests.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from checks import environment, lock
from supplychain import provenance, sbom, signing

pytestmark = pytest.mark.finding(15, "packages and images are replaced")
ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "constraints").glob("*.txt"))
IMAGE = "registry.example.com/finetune-operator@sha256:" + "a" * 64
PIN = re.compile(r"[a-z0-9][a-z0-9._-]*(\[[a-z0-9,-]+\])?==\S+(?: ; .+)?")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}")


def requirements(text: str) -> dict[str, list[str]]:
    """Return the hashes of each pinned package; fail on a line of any other form."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        line = line.removesuffix(" \\")
        if HASH.fullmatch(line):
            found[name].append(line)
        elif line and not line.startswith("#"):
            assert PIN.fullmatch(line), line
            name = line
            assert name not in found
            found[name] = []
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_package_is_pinned_with_hashes(file: Path) -> None:
    """Nothing else: an option in the file could select another package index."""
    found = requirements(file.read_text())
    assert found
    assert [name for name, hashes in found.items() if not hashes] == []


INSTALLS = {
    "Dockerfile.operator": ["uv.txt", "operator.txt"],
    "Dockerfile.trainer": ["uv.txt", "trainer.txt", "unsloth.txt"],
}


@pytest.mark.parametrize("name", INSTALLS)
def test_images_install_only_packages_with_hashes(name: str) -> None:
    text = re.sub(r"\\\n\s*", " ", (ROOT / name).read_text())
    installs = re.findall(r"pip install ([^;&]+)", text)
    assert all("--require-hashes" in each for each in installs), installs
    files = re.findall(r"-r /opt/constraints/([^\s;]+)", text)
    assert files == INSTALLS[name]


def test_environment_installs_only_packages_with_hashes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands: list[list[str]] = []

    def logged(command: list[str], *_: Any, **__: Any) -> None:
        commands.append(command)
        environment.FOLDER.mkdir(exist_ok=True)

    monkeypatch.setattr(environment, "FOLDER", tmp_path / "venv")
    monkeypatch.setattr(environment, "LOG", tmp_path / "venv.log")
    monkeypatch.setattr(environment, "uv", lambda: "uv")
    monkeypatch.setattr(environment, "logged", logged)
    environment.ensure()
    (install,) = (each for each in commands if "install" in each)
    assert "--require-hashes" in install


def test_lock_keeps_versions_and_replaces_hashes(tmp_path: Path) -> None:
    """The fake uv returns its input with a hash, and fails on a hash in its input."""
    fake = tmp_path / "uv"
    fake.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        "for line in sys.stdin.read().splitlines():\n"
        "    assert '--hash' not in line and '\\\\' not in line, line\n"
        "    print(line + ' \\\\\\n    --hash=sha256:' + 'b' * 64)\n"
    )
    fake.chmod(0o755)
    file = tmp_path / "operator.txt"
    hashes = "".join(f" \\\n    --hash=sha256:{digit * 64}" for digit in "12")
    file.write_text(f"# A comment.\naiohttp==1.0{hashes}\nkopf==2.0\n")
    expected = f" \\\n    --hash=sha256:{'b' * 64}\n"
    assert lock.locked(str(fake), file) == (
        f"# A comment.\naiohttp==1.0{expected}kopf==2.0{expected}"
    )


STATUS = """Package: libssl3
Status: install ok installed
Architecture: amd64
Version: 3.0.15-1~deb12u1+b1
Description: a library
 Package: not a field

Package: removed
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""


def test_bill_of_materials_lists_what_is_installed(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text(STATUS)
    (library,) = sbom.debian(status)
    assert library["name"] == "libssl3"
    (reference,) = library["externalRefs"]
    assert reference["referenceLocator"] == (
        "pkg:deb/debian/libssl3@3.0.15-1~deb12u1%2Bb1?arch=amd64"
    )
    assert sbom.debian(tmp_path / "missing") == []
    packages = {each["name"]: each["versionInfo"] for each in sbom.python()}
    assert packages["pytest"] == pytest.__version__
    assert "prometheus-client" in packages


def test_bill_of_materials_lists_the_installer_and_the_packages_of_the_base_image(
    tmp_path: Path,
) -> None:
    installed = (
        ("opt/uv/lib/python3.11/site-packages", "uv", "0.0.1"),
        ("opt/uv/lib/python3.11/site-packages", "pip", "0.0.2"),
        ("usr/local/lib/python3.11/site-packages", "pip", "0.0.3"),
    )
    for folder, name, version in installed:
        info = tmp_path / folder / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    found = sbom.python(tmp_path)
    assert {(name, version) for _, name, version in installed} <= {
        (each["name"], each["versionInfo"]) for each in found
    }
    identifiers = [each["SPDXID"] for each in found]
    assert len(identifiers) == len(set(identifiers))


def test_bill_of_materials_is_valid_and_reproducible(tmp_path: Path) -> None:
    """Written as in the Dockerfiles: by the file alone."""
    texts = []
    for number in range(2):
        output = tmp_path / str(number) / "sbom.json"
        arguments = ["--name", "finetune-operator", "--version", "0.1.0", "--output", str(output)]
        subprocess.run(
            [sys.executable, "-I", str(ROOT / "dev/supplychain/sbom.py"), *arguments],
            env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
            check=True,
        )
        texts.append(output.read_text())
    assert texts[0] == texts[1]
    found = json.loads(texts[0])
    assert (found["spdxVersion"], found["dataLicense"]) == ("SPDX-2.3", "CC0-1.0")
    assert found["creationInfo"]["created"] == "2023-11-14T22:13:20Z"
    identifiers = [each["SPDXID"] for each in found["packages"]]
    assert len(identifiers) == len(set(identifiers)) > 10
    assert all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", each) for each in identifiers)
    required = {"name", "SPDXID", "downloadLocation", "versionInfo", "licenseConcluded"}
    assert all(required <= each.keys() for each in found["packages"])
    related = {each["relatedSpdxElement"] for each in found["relationships"]}
    assert related == set(identifiers)


@pytest.mark.parametrize(
    "image",
    [
        "registry.example.com/finetune-operator:0.1.0",
        "registry.example.com/finetune-operator@sha256:" + "a" * 63,
        "registry.example.com/finetune-operator@sha256:" + "A" * 64,
    ],
)
def test_an_image_is_signed_by_digest_only(image: str) -> None:
    with pytest.raises(ValueError, match="has no digest"):
        signing.commands(image, sbom=Path("s"), provenance=Path("p"))


def release(folder: Path, *options: str, path: str = "") -> subprocess.CompletedProcess[str]:
    (folder / "sbom.json").write_text("{}")
    arguments = [IMAGE, "--dockerfile", "Dockerfile.operator", "--source", "https://example.com/r"]
    arguments += ["--builder", "https://example.com/ci", "--sbom", str(folder / "sbom.json")]
    arguments += ["--build-arg", f"BASE_IMAGE=docker.io/library/python@sha256:{'c' * 64}"]
    arguments += ["--output", str(folder / "out"), *options]
    return subprocess.run(
        [sys.executable, str(ROOT / "dev/supplychain"), *arguments],
        env={**os.environ, "PATH": path or "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_dry_run_prints_all_steps_without_cosign(tmp_path: Path) -> None:
    ended = release(tmp_path, "--dry-run", "--key", "awskms:///alias/release")
    assert ended.returncode == 0, ended.stderr
    steps = ended.stdout.splitlines()
    assert [line.split()[:2] for line in steps] == [
        ["cosign", "sign"],
        ["cosign", "attest"],
        ["cosign", "attest"],
    ]
    assert all(line.endswith(IMAGE) and "awskms:///alias/release" in line for line in steps)
    written = json.loads((tmp_path / "out/provenance.json").read_text())
    definition = written["buildDefinition"]
    source, *inputs = definition["resolvedDependencies"]
    assert re.fullmatch("[0-9a-f]{40}", source["digest"]["gitCommit"])
    names = {each["uri"] for each in inputs}
    assert names == {f"constraints/{file.name}" for file in FILES} | {
        "oci://docker.io/library/python"
    }
    assert definition["externalParameters"]["dockerfile"] == "Dockerfile.operator"
    assert written["runDetails"]["builder"] == {"id": "https://example.com/ci"}


def test_signing_runs_each_step_and_stops_at_a_failure(tmp_path: Path) -> None:
    assert "cosign is not on the PATH" in release(tmp_path).stderr
    fake, calls = tmp_path / "bin", tmp_path / "calls"
    fake.mkdir()
    script = f'#!/bin/sh\necho "$1" >> {calls}\ntest "$1" != "$FAILS"\n'
    (fake / "cosign").write_text(script)
    (fake / "cosign").chmod(0o755)
    path = f"{fake}:/usr/bin:/bin"
    assert release(tmp_path, path=path).returncode == 0
    assert calls.read_text().split() == ["sign", "attest", "attest"]
    calls.unlink()
    os.environ["FAILS"] = "sign"
    try:
        assert release(tmp_path, path=path).returncode != 0
    finally:
        del os.environ["FAILS"]
    assert calls.read_text().split() == ["sign"]


def test_provenance_tells_uncommitted_changes(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)

    git("init", "--quiet")
    git("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--allow-empty", "-m", "first")

    def uncommitted() -> bool:
        found = provenance.predicate(
            tmp_path, dockerfile="d", builder="b", source="s", arguments={}
        )
        return bool(found["buildDefinition"]["internalParameters"]["uncommittedChanges"])

    assert not uncommitted()
    (tmp_path / "file").write_text("x")
    assert uncommitted()
