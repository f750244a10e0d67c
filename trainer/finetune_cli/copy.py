"""``ftj copy``: copies the adapter or the merged model of a FineTuneJob to a local folder."""

import argparse
import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune_api import GROUP, KIND, PLURAL
from finetune_api.contracts import labels
from finetune_api.safety.printable import printable
from finetune_cli.copying import pod, transfer, vouched
from finetune_cli.copying.kubectl import Kubectl
from finetune_cli.copying.progress import Progress
from finetune_cli.copying.selection import Selection, select
from finetune_cli.errors import CommandFailed, Interrupted
from finetune_trainer.checkpointing import manifest
from finetune_trainer.checkpointing.manifest import Manifest
from finetune_trainer.runtime.log import log
from finetune_trainer.runtime.signals import StopRequest
from finetune_trainer.volume.files import write_json

POLL_SECONDS = 1.0
TRIES = 3
"""Interruptions in a row, without a complete file, after which the command fails."""
NEVER_STARTS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerError")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("name", metavar="NAME", help="name of the FineTuneJob")
    parser.add_argument("dest", metavar="DEST", type=Path, help="local folder; created if missing")
    part = parser.add_mutually_exclusive_group()
    part.add_argument(
        "--merged",
        dest="part",
        action="store_const",
        const="merged",
        default="merged",
        help="copy the merged model (default)",
    )
    part.add_argument(
        "--adapter",
        dest="part",
        action="store_const",
        const="adapter",
        help="copy the PEFT adapter and the model card",
    )
    parser.add_argument(
        "--revision",
        help="revision to copy. By default, the command tries the revision of the current spec, "
        "then the served revision, then the other revisions from new to old. It copies from the "
        "first revision that has a completed merged model (with --adapter: a completed adapter)",
    )
    parser.add_argument(
        "--image",
        help="image of the copy pod (must contain sleep, cat and tar); default: the trainer image",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="maximum time in seconds that the command waits for the start of the copy pod "
        "(default: 300)",
    )
    parser.add_argument("-n", "--namespace", help="namespace of the FineTuneJob")
    parser.add_argument("--context", help="context of the kubeconfig")
    parser.add_argument("--kubeconfig", help="path of the kubeconfig")


def run(options: argparse.Namespace, _: StopRequest) -> int:
    """Copy a model and check its digests. Raises CommandFailed."""
    kubectl = _kubectl(options, options.namespace)
    job = kubectl.get(f"{PLURAL}.{GROUP}", options.name)
    kubectl = _kubectl(options, job["metadata"]["namespace"])
    selection = select(job, options.part, options.revision)
    with _source(kubectl, options, selection) as source:
        found = _manifest(kubectl, source, selection)
        _copy(kubectl, source, selection.folder, found, options.dest)
    write_json(options.dest / manifest.FILE, manifest.as_json(found))
    checked = vouched.summary(found, selection, f"{KIND} {options.name}")
    log(
        f"{len(found.files)} files are in {options.dest}. Their digests match the manifest{checked}"
    )
    return 0


def _kubectl(options: argparse.Namespace, namespace: str | None) -> Kubectl:
    given = {
        "kubeconfig": options.kubeconfig,
        "context": options.context,
        "namespace": namespace,
    }
    return Kubectl(options=tuple(f"--{name}={value}" for name, value in given.items() if value))


def _selector(name: str, revision: str) -> str:
    return f"--selector={labels.JOB}={name},{labels.REVISION}={revision}"


def _claim(kubectl: Kubectl, name: str, revision: str) -> dict[str, Any]:
    """Return the metadata of the volume of a revision."""
    found = kubectl.get("persistentvolumeclaims", _selector(name, revision))["items"]
    if not found:
        raise CommandFailed(
            f"the volume of revision {revision} does not exist: copy another revision, or, to "
            "train again, set spec.rerun to a new value"
        )
    metadata: dict[str, Any] = found[0]["metadata"]
    return metadata


@contextmanager
def _source(
    kubectl: Kubectl, options: argparse.Namespace, selection: Selection
) -> Iterator[pod.Source]:
    """Return the container to copy from, within this block. Raises CommandFailed."""
    selector = _selector(options.name, selection.revision)
    claim = _claim(kubectl, options.name, selection.revision)
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
    place = _place(options, kubectl.get("jobs", selector)["items"], pods)
    log(f"copying {where} with the pod {name}")
    with _created(kubectl, name, pod.render(name, claim["name"], place)):
        _wait(kubectl, name, options.timeout)
        yield pod.Source(pod=name)


def _place(
    options: argparse.Namespace,
    jobs: Sequence[Mapping[str, Any]],
    pods: Sequence[Mapping[str, Any]],
) -> pod.Place:
    place = pod.place(jobs, pods)
    if options.image is None:
        return place
    return pod.Place(**{**vars(place), "image": options.image})


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


def _copy(kubectl: Kubectl, source: pod.Source, folder: str, found: Manifest, into: Path) -> None:
    files = transfer.expected(found)
    into.mkdir(parents=True, exist_ok=True)
    left, tries = transfer.missing(files, into), 0
    progress = Progress(files[each] for each in left)
    while left:
        cause = "the archive lacks files"
        try:
            call = (*_exec(source), "tar", "-C", folder, "-cf", "-", "--", *left)
            with kubectl.streamed(*call) as archive:
                transfer.receive(archive, files, into, progress.add)
        except Interrupted as error:
            cause = str(error)
        before, left = left, [each for each in left if not (into / each).exists()]
        progress.remaining(files[each] for each in left)
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
