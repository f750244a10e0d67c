"""Argo CD against an API server: its application controller, repo server and API server.

The program is built from Argo CD's Go module. The components use a kubeconfig for the cluster in
which they run (``ARGOCD_FAKE_IN_CLUSTER``, as in Argo CD's own Procfile). Redis and Git come from
the distribution.
"""

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.api_server.controlplane import ApiServer, answers, has, process, wait_until
from tests.support.api_server.manifest_files import ROOT, kubectl
from tests.support.ports import free_ports

from cluster.artifacts import gomodule
from conformance import modules

NAMESPACE = "argocd"
APPLICATIONS = f"/apis/argoproj.io/v1alpha1/namespaces/{NAMESPACE}/applications"
PART = {"app.kubernetes.io/part-of": "argocd"}
FOLDERS = (
    "ARGOCD_TLS_DATA_PATH",
    "ARGOCD_SSH_DATA_PATH",
    "ARGOCD_GNUPGHOME",
    "ARGOCD_PLUGINSOCKFILEPATH",
)
SECONDS = 180.0


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A Git repository in a folder."""

    folder: Path

    @classmethod
    def create(cls, folder: Path) -> "Repository":
        """Create an empty repository."""
        folder.mkdir(parents=True)
        made = cls(folder=folder)
        made._git("init", "--quiet", "--initial-branch=main")
        return made

    def commit(self, files: Mapping[str, str | None]) -> str:
        """Write files, or delete those that are None; commit; return the commit's name."""
        for name, text in files.items():
            file = self.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                file.unlink()
            else:
                file.write_text(text)
        self._git("add", "--all")
        author = ("-c", "user.name=Example", "-c", "user.email=user@example.com")
        self._git(*author, "commit", "--quiet", "--message=edit")
        return self._git("rev-parse", "HEAD").strip()

    def _git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.folder), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True, kw_only=True)
class ArgoCD:
    """A running Argo CD."""

    plane: ApiServer
    url: str
    """Of the API server, which requires no login."""

    def deploy(self, name: str, repository: Repository, namespace: str, path: str = ".") -> None:
        """Create an Application with automated sync, prune and self-heal.

        As docs/how-to/gitops.md describes, self-heal does not revert the actions.
        """
        self.plane.post(
            APPLICATIONS,
            {
                "apiVersion": "argoproj.io/v1alpha1",
                "kind": "Application",
                "metadata": {"name": name},
                "spec": {
                    "project": "default",
                    "source": {
                        "repoURL": f"file://{repository.folder}",
                        "targetRevision": "main",
                        "path": path,
                    },
                    "destination": {
                        "server": "https://kubernetes.default.svc",
                        "namespace": namespace,
                    },
                    "syncPolicy": {
                        "automated": {"prune": True, "selfHeal": True, "allowEmpty": True},
                        "syncOptions": ["ServerSideApply=true", "RespectIgnoreDifferences=true"],
                    },
                    "ignoreDifferences": [
                        {
                            "group": "finetune.dev",
                            "kind": "FineTuneJob",
                            "jsonPointers": ["/spec/suspend"],
                        }
                    ],
                },
            },
        )

    def refresh(self, name: str) -> None:
        """Compare with the newest commit now, as a webhook of the Git server does."""
        note = {"argocd.argoproj.io/refresh": "normal"}
        self.plane.merge(f"{APPLICATIONS}/{name}", {"metadata": {"annotations": note}})

    def status(self, name: str) -> dict[str, Any]:
        """Return the status of an Application; empty if it has none."""
        return dict(self.plane.get(f"{APPLICATIONS}/{name}").get("status", {}))

    def synced(self, name: str, commit: str) -> bool:
        """Report whether the cluster equals a commit."""
        sync = self.status(name).get("sync", {})
        return (sync.get("status"), sync.get("revision")) == ("Synced", commit)

    def health(self, name: str) -> str:
        """Return the health of an Application."""
        return str(self.status(name).get("health", {}).get("status", ""))

    def message(self, name: str) -> str:
        """Return the health message of the FineTuneJob in the tree of an Application."""
        url = f"{self.url}/api/v1/applications/{name}/resource-tree"
        with urllib.request.urlopen(url, timeout=60) as answer:
            nodes = json.load(answer)["nodes"]
        (job,) = (each for each in nodes if each["kind"] == "FineTuneJob")
        return str(job["health"].get("message", ""))

    def act(self, name: str, namespace: str, job: str, action: str) -> None:
        """Run a resource action on a FineTuneJob, as the menu of the web page does."""
        body = {
            "namespace": namespace,
            "resourceName": job,
            "version": "v1alpha1",
            "group": "finetune.dev",
            "kind": "FineTuneJob",
            "action": action,
        }
        request = urllib.request.Request(
            f"{self.url}/api/v1/applications/{name}/resource/actions/v2",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()


@contextmanager
def running(plane: ApiServer, folder: Path) -> Iterator[ArgoCD]:
    """Install Argo CD's objects, and run its components until the end of the block."""
    redis = shutil.which("redis-server")
    if redis is None:
        raise RuntimeError("redis-server is missing: install Debian's package redis-server")
    programs = modules.folder(modules.ARGOCD)
    module = gomodule.build(modules.ARGOCD, programs)
    built = programs / "argocd"
    _install(plane, module)
    cache, repositories, repository_metrics, server, server_metrics, metrics = free_ports(6)
    environment = {
        **os.environ,
        "KUBECONFIG": str(plane.kubeconfig),
        "HOME": str(folder),
        # The repo server calls scripts of its image; in the cache of modules, none is executable.
        "PATH": f"{folder}:{os.environ['PATH']}",
        "ARGOCD_FAKE_IN_CLUSTER": "true",
        "ARGOCD_GPG_ENABLED": "false",
        **{name: str(folder / name) for name in FOLDERS},
    }
    for name in FOLDERS:
        (folder / name).mkdir()
    for script in (module / "hack").glob("*-wrapper.sh"):
        copy = folder / script.name
        shutil.copyfile(script, copy)
        copy.chmod(0o755)
    common = (f"--namespace={NAMESPACE}", f"--redis=127.0.0.1:{cache}")
    components: dict[str, tuple[str, ...]] = {
        "argocd-repo-server": (
            f"--redis=127.0.0.1:{cache}",
            "--address=127.0.0.1",
            f"--port={repositories}",
            f"--metrics-port={repository_metrics}",
        ),
        "argocd-server": (
            *common,
            "--address=127.0.0.1",
            f"--port={server}",
            f"--metrics-port={server_metrics}",
            f"--repo-server=127.0.0.1:{repositories}",
            "--insecure",
            "--disable-auth",
        ),
        "argocd-application-controller": (
            *common,
            f"--metrics-port={metrics}",
            f"--repo-server=127.0.0.1:{repositories}",
            "--app-resync=15",
        ),
    }
    with ExitStack() as stack:
        command = [redis, "--port", str(cache), "--bind", "127.0.0.1", "--save", ""]
        stack.enter_context(process(command, folder / "redis.log", environment))
        started = [
            stack.enter_context(
                process(
                    [built, *options],
                    folder / f"{name}.log",
                    {**environment, "ARGOCD_BINARY_NAME": name},
                )
            )
            for name, options in components.items()
        ]
        url = f"http://127.0.0.1:{server}"
        wait_until(
            f"Argo CD answers (logs: {folder})",
            lambda: answers(f"{url}/healthz", *started),
            SECONDS,
        )
        yield ArgoCD(plane=plane, url=url)


def _install(plane: ApiServer, module: Path) -> None:
    """Create CRDs, configuration and the default project, then our health check as documented."""
    crds = module / "manifests" / "crds"
    _done(kubectl(plane, "apply", "--server-side", "-k", str(crds)))
    plane.namespace(NAMESPACE)
    empty = ("argocd-cm", "argocd-rbac-cm", "argocd-gpg-keys-cm", "argocd-tls-certs-cm")
    for name in (*empty, "argocd-ssh-known-hosts-cm"):
        maps = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
        plane.post(maps, {"metadata": {"name": name, "labels": PART}})
    secret = {"server.secretkey": "not-secret", "admin.password": "unused"}
    plane.post(
        f"/api/v1/namespaces/{NAMESPACE}/secrets",
        {"metadata": {"name": "argocd-secret", "labels": PART}, "stringData": secret},
    )
    served = APPLICATIONS.replace("/applications", "/appprojects")
    wait_until("the CRDs are served", lambda: has(plane, served))
    anything = {"group": "*", "kind": "*"}
    plane.post(
        served,
        {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "AppProject",
            "metadata": {"name": "default"},
            "spec": {
                "sourceRepos": ["*"],
                "destinations": [{"namespace": "*", "server": "*"}],
                "clusterResourceWhitelist": [anything],
            },
        },
    )
    # The command of docs/how-to/gitops.md.
    words = ("-n", NAMESPACE, "apply", "--server-side", "--field-manager=finetune", "-f")
    _done(kubectl(plane, *words, str(ROOT / "gitops" / "argocd" / "argocd-cm.yaml")))


def _done(ended: subprocess.CompletedProcess[str]) -> None:
    assert ended.returncode == 0, ended.stderr
