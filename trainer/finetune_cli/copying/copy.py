"""``ftj copy``: copies the adapter or the merged model of a FineTuneJob to a local folder."""

import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from finetune_api import GROUP, KIND, PLURAL
from finetune_api.contracts import labels
from finetune_api.safety.printable import printable
from finetune_cli.copying import pod, transfer, vouched
from finetune_cli.copying.kubectl import Kubectl
from finetune_cli.copying.progress import CopyProgress
from finetune_cli.copying.selection import Selection, select
from finetune_cli.errors import CommandFailed, Interrupted, WrongCall
from finetune_cli.options import Context, Format, JobName, Kubeconfig, Namespace, Output
from finetune_trainer.checkpointing import manifest
from finetune_trainer.checkpointing.manifest import Manifest
from finetune_trainer.runtime.log import log
from finetune_trainer.volume.files import write_json

POLL_SECONDS = 1.0
TRIES = 3
"""Interruptions in a row, without a complete file, after which the command fails."""
NEVER_STARTS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerError")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to copy, and where from."""

    name: str
    kubectl: Kubectl
    image: str | None
    timeout: float


def run(
    name: JobName,
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="local folder; created if missing")],
    merged: Annotated[
        bool, typer.Option("--merged", help="copy the merged model (default)")
    ] = False,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="copy the PEFT adapter and the model card")
    ] = False,
    revision: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="revision to copy. By default, the command tries the revision of the current "
            "spec, then the served revision, then the other revisions from new to old. It copies "
            "from the first revision that has a completed merged model (with --adapter: a "
            "completed adapter)",
        ),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            help="image of the copy pod (must contain sleep, cat and tar); default: the trainer "
            "image",
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="maximum time in seconds that the command waits for the start of the copy pod",
        ),
    ] = 300.0,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = Format.TEXT,
) -> int:
    """Copy a model and check its digests. Raises CommandFailed."""
    if merged and adapter:
        raise WrongCall("--merged and --adapter exclude each other: set one of them")
    kubectl = _kubectl(kubeconfig, context, namespace)
    job = kubectl.get(f"{PLURAL}.{GROUP}", name)
    kubectl = _kubectl(kubeconfig, context, job["metadata"]["namespace"])
    request = Request(name=name, kubectl=kubectl, image=image, timeout=timeout)
    selection = select(job, "adapter" if adapter else "merged", revision)
    with _source(request, selection) as source:
        listing = _manifest(kubectl, source, selection)
        _copy(kubectl, source, selection.folder, listing, dest)
    write_json(dest / manifest.FILE, manifest.as_json(listing))
    checked = vouched.summary(listing, selection, f"{KIND} {name}")
    log(f"{len(listing.files)} files are in {dest}. Their digests match the manifest{checked}")
    if output is Format.JSON:
        copied = {"name": name, "revision": selection.revision, "part": selection.part}
        print(json.dumps({**copied, "folder": str(dest), "files": len(listing.files)}, indent=2))
    return 0


def _kubectl(kubeconfig: Path | None, context: str | None, namespace: str | None) -> Kubectl:
    given = {"kubeconfig": kubeconfig, "context": context, "namespace": namespace}
    return Kubectl(options=tuple(f"--{name}={value}" for name, value in given.items() if value))


def _selector(name: str, revision: str) -> str:
    return f"--selector={labels.JOB}={name},{labels.REVISION}={revision}"


def _claim(kubectl: Kubectl, name: str, revision: str) -> dict[str, Any]:
    """Return the metadata of the volume of a revision."""
    claims = kubectl.get("persistentvolumeclaims", _selector(name, revision))["items"]
    if not claims:
        raise CommandFailed(
            f"the volume of revision {revision} does not exist: copy another revision, or, to "
            "train again, set spec.rerun to a new value"
        )
    metadata: dict[str, Any] = claims[0]["metadata"]
    return metadata


@contextmanager
def _source(request: Request, selection: Selection) -> Iterator[pod.Source]:
    """Return the container to copy from, within this block. Raises CommandFailed."""
    kubectl = request.kubectl
    selector = _selector(request.name, selection.revision)
    claim = _claim(kubectl, request.name, selection.revision)
    pods = kubectl.get("pods", selector)["items"]
    where = f"{selection.folder} of PersistentVolumeClaim {claim['name']}"
    if "deletionTimestamp" in claim:
        source = pod.running_source(pods, claim["name"])
        if source is None:
            raise CommandFailed(
                f"PersistentVolumeClaim {claim['name']} is terminating, and no running pod mounts "
                "it, so its files can no longer be read: copy another revision (--revision), or, "
                "to train again, set spec.rerun to a new value"
            )
        log(
            f"copying {where}, which is terminating, from the running pod {source.pod}: the files "
            "are lost when the last pod that mounts them ends"
        )
        yield source
        return
    name = f"ftj-copy-{secrets.token_hex(4)}"
    place = _place(request.image, kubectl.get("jobs", selector)["items"], pods)
    log(f"copying {where} with the pod {name}")
    with _created(kubectl, name, pod.render(name, claim["name"], place)):
        _wait(kubectl, name, request.timeout)
        yield pod.Source(pod=name)


def _place(
    image: str | None,
    jobs: Sequence[Mapping[str, Any]],
    pods: Sequence[Mapping[str, Any]],
) -> pod.Place:
    place = pod.place(jobs, pods)
    if image is None:
        return place
    return pod.Place(**{**vars(place), "image": image})


@contextmanager
def _created(kubectl: Kubectl, name: str, body: Mapping[str, Any]) -> Iterator[None]:
    """Create the copy pod, and delete it at the end of the block, however the block ends."""
    try:
        kubectl.run("create", "--filename=-", stdin=json.dumps(body))
        yield
    finally:
        kubectl.run("delete", "pod", name, "--wait=false", "--ignore-not-found")


def _wait(kubectl: Kubectl, name: str, seconds: float) -> None:
    """Wait until the pod runs. Raises CommandFailed with the reason why it does not start."""
    until, reason = time.monotonic() + seconds, ""
    while True:
        status = kubectl.get("pod", name).get("status", {})
        if status.get("phase") == "Running":
            return
        previous, reason = reason, printable(_why_not_running(status))
        if reason != previous:
            log(f"waiting for the pod {name}: {reason}")
        if status.get("phase") == "Failed" or reason.startswith(NEVER_STARTS):
            raise CommandFailed(
                f"the pod {name} cannot start ({reason}): fix the cause, or set --image to another "
                "image"
            )
        if time.monotonic() > until:
            raise CommandFailed(
                f"the pod {name} did not start within {seconds:.0f} s ({reason}): fix the cause, "
                "or raise --timeout"
            )
        time.sleep(POLL_SECONDS)


def _why_not_running(status: Mapping[str, Any]) -> str:
    for container in status.get("containerStatuses") or ():
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") != "ContainerCreating":
            return f"{waiting.get('reason')} {waiting.get('message', '')}".strip()
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{condition.get('reason', '')} {condition.get('message', '')}".strip()
    return status.get("message") or f"the pod is {status.get('phase', 'Pending')}"


def _manifest(kubectl: Kubectl, source: pod.Source, selection: Selection) -> Manifest:
    """Return the manifest of the folder. Raises CommandFailed if the ledger has another digest."""
    file = f"{selection.folder}/{manifest.FILE}"
    # When the connection to the pod is lost, kubectl exec prints nothing and returns 0.
    texts = (kubectl.run(*_exec(source), "cat", file) for _ in range(TRIES))
    text = next(filter(None, texts), "")
    return vouched.parsed(text, selection)


def _copy(kubectl: Kubectl, source: pod.Source, folder: str, listing: Manifest, into: Path) -> None:
    files = transfer.expected(listing)
    into.mkdir(parents=True, exist_ok=True)
    left, tries = transfer.missing(files, into), 0
    progress = CopyProgress(files[name] for name in left)
    while left:
        cause = "the archive lacks files"
        try:
            call = (*_exec(source), "tar", "-C", folder, "-cf", "-", "--", *left)
            with kubectl.streamed(*call) as archive:
                transfer.receive(archive, files, into, progress.add)
        except Interrupted as error:
            cause = str(error)
        before, left = left, [name for name in left if not (into / name).exists()]
        progress.remaining(files[name] for name in left)
        tries = 0 if len(left) < len(before) else tries + 1
        if tries == TRIES:
            raise CommandFailed(
                f"the connection to the pod {source.pod} was interrupted {TRIES} times in "
                f"succession ({cause}): run the command again; complete files are not copied again"
            )
        if left:
            log(f"the connection to the pod {source.pod} was interrupted ({cause}); continuing")
    progress.end()


def _exec(source: pod.Source) -> tuple[str, ...]:
    return "exec", source.pod, f"--container={source.container}", "--"
