"""Builds the program with PyInstaller in an environment of its own, and packs it.

A folder starts faster than one file, which would be unpacked at each start.
"""

from __future__ import annotations

import gzip
import io
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path

from checks import environment
from cluster import paths
from finetune_cli.commands.table import COMMANDS
from release import files
from release.location import version_of_the_checkout

CONSTRAINTS = paths.REPO / "constraints" / "archive.txt"
ENTRY = "import sys\nfrom finetune_cli.__main__ import main\nsys.exit(main())\n"
PACKAGES = ("finetune_api", "finetune_cli", "finetune_trainer")
"""Verbs import their modules by name, so that PyInstaller does not find them."""
WITH_DATA = ("finetune_cli", "finetune_trainer")
"""Packages with files that are no modules, as in pyproject.toml."""
SERVICES = ("s3", "sts", "sso", "sso-oidc", "signin")
"""Descriptions of AWS services that copies and credentials need; those of the others are 25 MB."""
MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
PAGE_FILES = ("static/ui.css", "static/ui.js")
NO_CLUSTER = """\
apiVersion: v1
kind: Config
current-context: none
contexts: [{name: none, context: {cluster: none, user: none}}]
clusters: [{name: none, cluster: {server: "https://127.0.0.1:9"}}]
users: [{name: none, user: {}}]
"""
TIME = 315532800
"""Of the files in the archive: 1980-01-01, so that equal contents are equal archives."""


def make(folder: Path) -> Path:
    """Build the program of this checkout for this machine, and return the path of its archive."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        program = _build(_environment(work), work)
        _check(program / "ftj")
        shutil.copy(paths.REPO / "LICENSE", program)
        shutil.copy(paths.REPO / "NOTICE", program)
        return _pack(program, folder / name())


def name() -> str:
    """Return the name of the archive for this machine."""
    machine = MACHINES.get(platform.machine(), platform.machine())
    version = version_of_the_checkout(paths.REPO)
    return f"ftj-{version}-{platform.system().lower()}-{machine}.tar.gz"


def _environment(work: Path) -> Path:
    """Create an environment with the wheel and the pinned packages; return its interpreter."""
    venv = work / "venv"
    files.wheel(paths.REPO, work)
    (wheel,) = work.glob("*.whl")
    python = venv / "bin" / "python"
    uv = environment.uv()
    for words in (
        ("venv", "--python", environment.INTERPRETER, venv),
        ("pip", "install", "--python", python, "--require-hashes", "-r", CONSTRAINTS),
        ("pip", "install", "--python", python, "--no-deps", wheel),
    ):
        _run(uv, *words)
    return python


def _build(python: Path, work: Path) -> Path:
    """Return the folder of the program."""
    entry = work / "entry.py"
    entry.write_text(ENTRY)
    words = ["--onedir", "--name=ftj", "--noconfirm", "--log-level=ERROR", "--strip"]
    words += [f"--collect-submodules={package}" for package in PACKAGES]
    words += ["--collect-submodules=rich._unicode_data"]
    words += [f"--collect-data={package}" for package in WITH_DATA]
    words += ["--copy-metadata=finetune-operator", "--exclude-module=tkinter"]
    _run(python, "-m", "PyInstaller", *words, entry, cwd=work)
    program = work / "dist" / "ftj"
    for service in (program / "_internal" / "botocore" / "data").iterdir():
        if service.is_dir() and service.name not in SERVICES:
            shutil.rmtree(service)
    return program


def _check(program: Path) -> None:
    """Load the module of each verb without Python: one that is missing fails the build."""
    for arguments in (("--version",), *((name, "--help") for name in COMMANDS)):
        _run(program, *arguments, env={"COLUMNS": "80"})
    _check_pages(program)


def _check_pages(program: Path) -> None:
    """Serve the pages and read their files, which the verb ui alone loads."""
    with tempfile.TemporaryDirectory() as temporary:
        kubeconfig = Path(temporary) / "kubeconfig"
        kubeconfig.write_text(NO_CLUSTER)
        command = [str(program), "ui", "--kubeconfig", str(kubeconfig)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                _, address = process.stdout.readline().split()
                for file in PAGE_FILES:
                    with urllib.request.urlopen(f"{address}{file}", timeout=30) as answer:
                        answer.read()
            finally:
                process.terminate()


def _pack(program: Path, archive: Path) -> Path:
    """Write the archive of a folder; equal folders give equal archives."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path in sorted(program.rglob("*")):
            tar.add(path, Path("ftj") / path.relative_to(program), False, filter=_anonymous)
    with archive.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=TIME) as compressed:
        compressed.write(packed.getvalue())
    return archive


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = TIME
    return member


def _run(*words: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        [*map(str, words)], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        done.check_returncode()
