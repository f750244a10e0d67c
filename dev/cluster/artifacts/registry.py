"""The local image registry: the docker-registry package of Debian with its own configuration.

It listens only on the loopback address. It keeps layers, so a second start pushes and pulls none.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

from cluster import paths
from cluster.host import files, processes
from cluster.settings import REGISTRY, REGISTRY_ADDRESS, REGISTRY_PORT
from cluster.shell import logged

CONFIG = paths.IMAGES / "registry.json"
MANIFESTS = ", ".join(
    [
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ]
)


def start() -> None:
    """Start the registry if it is not running; return when it answers."""
    paths.REGISTRY_ROOT.mkdir(parents=True, exist_ok=True)
    files.write(
        CONFIG,
        json.dumps(
            {
                "version": "0.1",
                "log": {"level": "warn", "accesslog": {"disabled": True}},
                "storage": {
                    "filesystem": {"rootdirectory": str(paths.REGISTRY_ROOT)},
                    "delete": {"enabled": True},
                },
                "http": {"addr": REGISTRY_ADDRESS},
            },
            indent=2,
        ),
    )
    command = ["docker-registry", "serve", str(CONFIG)]
    processes.start("registry", command, configuration=[CONFIG], ports=[REGISTRY_PORT])
    processes.wait_until("registry", lambda: _request("GET", "/v2/") is not None, state="answering")


def _request(method: str, path: str) -> str | None:
    """Return the content digest header of a successful response, or ""; None on failure."""
    request = urllib.request.Request(f"http://{REGISTRY_ADDRESS}{path}", method=method)
    request.add_header("Accept", MANIFESTS)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as response:
            return response.headers.get("Docker-Content-Digest") or ""
    except (urllib.error.URLError, OSError):
        return None


def _manifest_path(image: str) -> str:
    name, _, tag = image.removeprefix(f"{REGISTRY}/").rpartition(":")
    return f"/v2/{name}/manifests/{tag}"


def has(image: str) -> bool:
    """Report whether the registry has the image ``localhost:5000/<name>:<tag>``."""
    return _request("HEAD", _manifest_path(image)) is not None


def tags(name: str) -> list[str]:
    """Return all tags of a repository, newest first."""
    folder = _tags_folder(name)
    folders = list(folder.iterdir()) if folder.is_dir() else []
    return [tag.name for tag in sorted(folders, key=lambda tag: -tag.stat().st_mtime)]


def knows(image: str) -> bool:
    """Report whether the registry has the image, from its files: it does not have to run."""
    name, _, tag = image.removeprefix(f"{REGISTRY}/").rpartition(":")
    return (_tags_folder(name) / tag).is_dir()


def _tags_folder(name: str) -> Path:
    return paths.REGISTRY_ROOT / "docker/registry/v2/repositories" / name / "_manifests/tags"


def remove(image: str) -> bool:
    """Delete an image, report whether it existed; :func:`collect` deletes its layers."""
    digest = _request("HEAD", _manifest_path(image))
    if not digest:
        return False
    path = _manifest_path(image).rpartition("/")[0]
    return _request("DELETE", f"{path}/{digest}") is not None


def collect() -> None:
    """Delete layers that no image uses. The registry must not be running."""
    log = paths.LOGS / "images.log"
    logged(["docker-registry", "garbage-collect", "--delete-untagged", str(CONFIG)], log)
