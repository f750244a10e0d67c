"""The archive of `make gpu-bundle` runs where only PyTorch and its companions are installed."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest
from bench.gpu import exact
from bench.gpu.results import FAILED, Results

from checks import environment
from gpubundle import archive, contents

REPOSITORY = Path(__file__).resolve().parents[2]
SITE = Path(sysconfig.get_path("purelib"))
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a bundle, from the archive of the packages of this environment."""
    folder = tmp_path_factory.mktemp("bundle")
    made = folder / "made" / archive.NAME
    contents.write(REPOSITORY, SITE, made, names=contents.missing(SITE), cuda="130")
    (made / contents.PACKAGES / contents.BUILT_FOR).write_text(f"{VERSION}\n")
    file = folder / "bundle.tar.xz"
    archive.pack(made, file, preset=0)
    shutil.rmtree(made)
    with tarfile.open(file) as tar:
        tar.extractall(folder, filter="data")
    return folder / archive.NAME


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an interpreter with the packages that the machine has, and with no others."""
    folder = tmp_path_factory.mktemp("python") / "venv"
    command = [environment.INTERPRETER, "-m", "venv", "--without-pip", str(folder)]
    subprocess.run(command, check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    for name in contents.present(SITE):
        for file in importlib.metadata.distribution(name).files or ():
            top = Path(file).parts[0]
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(SITE / top)
    found = folder / "bin" / "python"
    for package in ("peft", "trl", "bitsandbytes", "liger_kernel", "datasets", "finetune_trainer"):
        ended = subprocess.run(
            [found, "-c", f"import {package}"], capture_output=True, check=False, env={}
        )
        assert b"ModuleNotFoundError" in ended.stderr, package
    return found


@pytest.mark.exhaustive
def test_dry_run_in_a_clean_environment(bundle: Path, python: Path, tmp_path: Path) -> None:
    output, results = complete(bundle, python, tmp_path, "--only", "memory")
    assert set(results.measured) == {"memory/trl/default", "memory/trl/plain script"}
    check_memory(output)


@pytest.mark.exhaustive
def test_all_measurements_in_pieces(bundle: Path, python: Path, tmp_path: Path) -> None:
    for part in ("exact", "settings"):
        complete(bundle, python, tmp_path, "--only", part)
    # Makes the missing ones only.
    output, results = complete(bundle, python, tmp_path, "--minutes", "60")
    assert [line for line in output.splitlines() if line.startswith("==>")] == [
        "==> memory/trl/default",
        "==> memory/trl/plain script",
    ]
    assert len(results.measured) == 2 + 4 + 1 + 6
    check_memory(output)
    assert output.count(exact.IDENTICAL) == 4, "a CPU repeats and resumes exactly"
    assert output.count("trained, attention sdpa") == 6
    command = [sys.executable, "bench/gpu", "--tables", str(tmp_path / "results.json")]
    again = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert again.stdout.strip() in output


@pytest.mark.exhaustive
def test_other_python_is_refused(bundle: Path, python: Path) -> None:
    (bundle / contents.PACKAGES / contents.BUILT_FOR).write_text("3.9\n")
    try:
        ended = subprocess.run(
            [python, bundle / "bench" / "gpu"], capture_output=True, check=False, text=True, env={}
        )
    finally:
        (bundle / contents.PACKAGES / contents.BUILT_FOR).write_text(f"{VERSION}\n")
    assert ended.returncode == 1
    assert f"make gpu-bundle FOR={VERSION}" in ended.stderr


def test_too_large_archive_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(os.urandom(10000))
    file = tmp_path / "archive.tar.xz"
    with pytest.raises(archive.TooLarge, match="limit"):
        archive.pack(tmp_path / "folder", file, largest=5000)
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]
    archive.pack(tmp_path / "folder", file, largest=50000)
    assert file.exists()


def test_packages_are_those_of_the_constraints() -> None:
    text = archive.CONSTRAINTS.read_text()
    lines = archive.pinned(text, {"peft", "trl"}).splitlines()
    assert [line.partition("==")[0] for line in lines if "==" in line] == ["peft", "trl"]
    assert all("--hash=sha256:" in line for line in lines if line and "==" not in line)
    with pytest.raises(ValueError, match="do not pin nothing"):
        archive.pinned(text, {"nothing"})


def complete(bundle: Path, python: Path, folder: Path, *options: str) -> tuple[str, Results]:
    """Make the measurements of a dry run that are missing; return the output and all results."""
    command = [str(python), str(bundle / "bench" / "gpu"), "--dry-run", *options]
    command += ["--results", str(folder / "results.json"), "--folder", str(folder / "kept")]
    threads = {name: os.environ[name] for name in ("OMP_NUM_THREADS",) if name in os.environ}
    ended = subprocess.run(
        command,
        cwd=folder,
        env={"HOME": str(folder), "PATH": "/usr/bin:/bin", **threads},
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-4000:]
    results = Results.load(folder / "results.json")
    assert not [figures for figures in results.measured.values() if FAILED in figures], ended.stdout
    return ended.stdout, results


def check_memory(output: str) -> None:
    rows = re.findall(r"^\| `trl` +\| (?:default|plain script) .*GiB.*$", output, re.MULTILINE)
    assert len(rows) == 2
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[3] == "not measured", "peaks are a card's"
        assert float(cells[5]) > 0, "tokens a second"
