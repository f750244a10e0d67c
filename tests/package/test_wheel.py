"""The wheel in a separate environment: the installed programs work.

Each environment has another version of the hub client: the oldest and the newest that the extra
``cli`` allows. They use different HTTP clients.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.trainer.hub import Hub, serving

from checks import environment
from cluster import paths
from finetune_api import API_VERSION, KIND

CLIENTS = {"oldest": "huggingface_hub==1.0.0", "newest": "huggingface_hub<3"}
HTTP_CLIENT = {"oldest": "httpx", "newest": "httpx2"}
AXOLOTL = paths.REPO / "tests" / "unit" / "cli" / "axolotl" / "axolotl-article.yml"
SPEC: dict[str, Any] = {
    "model": {"source": "hf://demo/tiny"},
    "dataset": {"source": "hf://demo/rows", "format": "alpaca"},
}
PUBLIC_KEY = """\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEkjh6QVkZ4i9LccRSFXa8HnTZqXND
KemeHCrmxdFcIcxVbqyy526MdNPsn1wnA88xmIN9+1tzPn44OBHkJTXr9w==
-----END PUBLIC KEY-----
"""
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}


class Installation:
    """A virtual environment with the wheel."""

    def __init__(self, folder: Path, hub: Hub) -> None:
        self.folder, self.hub = folder, hub

    def run(
        self, program: str, *arguments: str, stdin: str = "", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in an empty folder, without this checkout's code."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "HOME") if name in os.environ}
        work = self.folder / "work"
        work.mkdir(exist_ok=True)
        return subprocess.run(
            [str(self.folder / "bin" / program), *arguments],
            env=kept | {"HF_ENDPOINT": self.hub.url} | variables,
            cwd=work,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with serving() as found:
        folder = tmp_path_factory.mktemp("model")
        (folder / "config.json").write_text(json.dumps(CONFIG))
        found.add("model", "demo/tiny", folder)
        found.add("model", "demo/gated", folder, gated_with="secret")
        yield found


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone: setuptools would otherwise write its metadata into the checkout."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=paths.REPO, capture_output=True, check=True
    ).stdout.decode()
    folder = tmp_path_factory.mktemp("source")
    needed = ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "crds/", "operator/", "trainer/")
    for name in tracked.split("\0"):
        if name.startswith(needed) and (paths.REPO / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((paths.REPO / name).read_bytes())
    return folder


@pytest.fixture(scope="session")
def wheel(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a clone with the packages of the development environment."""
    folder = tmp_path_factory.mktemp("wheel")
    uv("build", "--wheel", "--no-build-isolation", "--python", sys.executable, "-o", folder, clone)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="session", params=CLIENTS)
def installed(
    request: pytest.FixtureRequest,
    wheel: Path,
    hub: Hub,
    tmp_path_factory: pytest.TempPathFactory,
) -> Installation:
    folder = tmp_path_factory.mktemp(request.param) / "venv"
    uv("venv", "--python", sys.executable, folder)
    python = folder / "bin" / "python"
    uv("pip", "install", "--python", python, f"{wheel}[cli]", CLIENTS[request.param])
    installation = Installation(folder, hub)
    client = HTTP_CLIENT[request.param]
    assert installation.run("python", "-c", f"import {client}").returncode == 0
    assert installation.run("python", "-c", "import torch").returncode == 1
    return installation


def uv(*words: str | Path) -> None:
    done = subprocess.run(
        [environment.uv(), *map(str, words)],
        env=os.environ | {"UV_SYSTEM_CERTS": "1", "UV_HTTP_TIMEOUT": "600"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def manifest(**spec: Any) -> str:
    document = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": "own"},
        "spec": SPEC | spec,
    }
    return yaml.safe_dump(document)


def test_both_programs_print_their_help(installed: Installation) -> None:
    for program, name in {"ftj": "ftj", "kubectl-ftj": "kubectl ftj"}.items():
        done = installed.run(program, "run", "--help")
        assert done.returncode == 0, done.stderr
        assert f"Usage: {name} run" in done.stdout
    assert installed.run("ftj", "--version").stdout.startswith("finetune-operator 0.")


def test_validate_needs_no_file_outside_the_wheel(installed: Installation) -> None:
    good = installed.run("ftj", "validate", "-f", "-", stdin=manifest())
    assert (good.returncode, good.stderr) == (0, "")
    bad = installed.run("ftj", "validate", "-f", "-", stdin=manifest(suspend="no"))
    assert bad.returncode == 64
    assert "spec.suspend: set true or false" in bad.stderr


def test_axolotl_file_is_imported_validated_and_estimated(installed: Installation) -> None:
    imported = installed.run("ftj", "import-axolotl", str(AXOLOTL))
    assert imported.returncode == 0, imported.stderr
    assert installed.run("ftj", "validate", "-f", "-", stdin=imported.stdout).returncode == 0
    (installed.folder / "config.json").write_text(json.dumps(CONFIG))
    card = ("--card", "NVIDIA-A40", "--rows", "1000")
    arguments = ("estimate", "-f", "-", "--model", str(installed.folder), *card)
    estimated = installed.run("ftj", *arguments, stdin=imported.stdout)
    assert estimated.returncode == 0, estimated.stderr
    assert "NVIDIA-A40 (44.99 GiB)" in estimated.stdout


def test_estimate_reads_the_configuration_from_the_hub(installed: Installation) -> None:
    done = installed.run("ftj", "estimate", "-f", "-", stdin=manifest())
    assert done.returncode == 0, done.stderr
    assert "own: demo/tiny on NVIDIA-A10G" in done.stdout


def test_interrupted_download_is_resumed(installed: Installation) -> None:
    installed.hub.cuts["config.json"] = [10]
    done = installed.run("ftj", "estimate", "-f", "-", stdin=manifest())
    assert done.returncode == 0, done.stderr
    assert "resuming" in done.stderr
    assert ("config.json", "bytes=10-") in installed.hub.ranges


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ("hf://demo/absent", 66, "ModelNotFound: model demo/absent does not exist on the hub"),
        ("hf://demo/gated", 77, "AccessDenied: model demo/gated is gated"),
    ],
)
def test_errors_of_the_hub_are_one_line(
    installed: Installation, source: str, code: int, words: str
) -> None:
    done = installed.run("ftj", "estimate", "-f", "-", stdin=manifest(model={"source": source}))
    assert done.returncode == code
    assert done.stderr.startswith(words)
    assert done.stderr.count("\n") == 1


def test_unreachable_hub_is_one_line(installed: Installation) -> None:
    done = installed.run(
        "ftj", "estimate", "-f", "-", stdin=manifest(), HF_ENDPOINT="http://127.0.0.1:9"
    )
    assert done.returncode == 75
    assert done.stderr.startswith("Transient: the hub is unreachable for model demo/tiny")
    assert done.stderr.count("\n") == 1


def test_verify_of_an_image_needs_no_other_extra(installed: Installation) -> None:
    key = installed.folder / "signing.pub"
    key.write_text(PUBLIC_KEY)
    done = installed.run("ftj", "verify", "oci://registry/models:latest", "--key", str(key))
    assert done.returncode == 1
    assert "does not name an image by its digest" in done.stderr


def test_verify_of_a_bucket_needs_no_other_extra(installed: Installation) -> None:
    key = installed.folder / "signing.pub"
    key.write_text(PUBLIC_KEY)
    endpoint = ("--endpoint", "https://127.0.0.1:9")
    done = installed.run("ftj", "verify", "s3://models/support", "--key", str(key), *endpoint)
    assert done.returncode == 1
    assert "s3://models/support cannot be read" in done.stderr


def test_run_names_the_missing_extra(installed: Installation) -> None:
    done = installed.run("ftj", "run", "-f", "-", "--work", "runs", stdin=manifest())
    assert done.returncode == 1
    assert done.stderr.startswith("ftj run needs the package ")
    assert done.stderr.endswith(": run pip install 'finetune-operator[trainer]'\n")
    assert done.stderr.count("\n") == 1


def test_estimate_from_the_hub_names_the_missing_extra(
    wheel: Path, hub: Hub, tmp_path: Path
) -> None:
    folder = tmp_path / "venv"
    uv("venv", "--python", sys.executable, folder)
    uv("pip", "install", "--python", folder / "bin" / "python", wheel)
    done = Installation(folder, hub).run("ftj", "estimate", "-f", "-", stdin=manifest())
    assert done.returncode == 1
    assert done.stderr.startswith(
        "ftj estimate needs the package huggingface_hub, which is not installed: "
        "run pip install 'finetune-operator[cli]'"
    )


DEBIAN_PYTHON = Path("/usr/bin/python3")
PIPX = "pipx==1.8.0"
PAGES = {"pipx": "README.md", "uvx": "docs/getting-started/workstation.md"}


@pytest.mark.parametrize("extra", ["", "[cli]"])
def test_verbs_on_files_need_no_extra(extra: str, wheel: Path, hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "venv"
    uv("venv", "--python", sys.executable, folder)
    uv("pip", "install", "--python", folder / "bin" / "python", f"{wheel}{extra}")
    installation = Installation(folder, hub)
    assert installation.run("python", "-c", "import torch").returncode == 1
    assert installation.run("ftj", "validate", "-", stdin=manifest()).returncode == 0
    (folder / "work" / "state.yaml").write_text(manifest())
    options = ("--state", "state.yaml", "--offline")
    same = installation.run("ftj", "plan", "-", *options, stdin=manifest())
    assert (same.returncode, same.stderr) == (0, "")
    edited = installation.run("ftj", "plan", "-", *options, stdin=manifest(rerun="1"))
    assert (edited.returncode, edited.stderr) == (3, "")


@pytest.mark.skipif(not DEBIAN_PYTHON.exists(), reason="this system has no Python of its own")
@pytest.mark.parametrize("tool", ["pipx", "uvx"])
def test_commands_of_the_pages_install_with_the_python_of_the_system(
    tool: str, clone: Path, tmp_path: Path
) -> None:
    """For example with the Python 3.11 of Debian 12, in a clone."""
    page = (paths.REPO / PAGES[tool]).read_text()
    (written,) = re.findall(rf"{tool} [^`\n#]*'\.\[cli\]'(?: ftj)?", page)
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "HOME") if name in os.environ}
    indexes = {
        name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_"))
    }
    folders = {"PIPX_HOME": str(tmp_path / "pipx"), "PIPX_BIN_DIR": str(tmp_path / "bin")}
    # pip would compile all modules, of which the two commands load few.
    own = {**kept, **indexes, **folders, "UV_SYSTEM_CERTS": "1", "PIP_COMPILE": "0"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, env=own, cwd=clone, capture_output=True, text=True, check=False
        )

    python, words = ("--python", str(DEBIAN_PYTHON)), shlex.split(written)[1:]
    if tool == "pipx":
        done = run(environment.uv(), "tool", "run", *python, PIPX, *words, *python)
        assert done.returncode == 0, done.stderr
        command = [str(tmp_path / "bin" / "ftj")]
    else:
        command = [environment.uv(), "tool", "run", *python, *words]
    done = run(*command, "--version")
    assert (done.returncode, done.stdout[:20]) == (0, "finetune-operator 0."), done.stderr
    assert run(*command, "status", "--kubeconfig", "absent").returncode == 1
