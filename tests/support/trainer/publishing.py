"""A volume with files to publish, and the publish stage in this process or in one of its own."""

import json
import os
import random
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.support.trainer import tiny
from tests.support.trainer.web import Certificate

from finetune_api.contracts.job_config import JobConfig
from finetune_api.contracts.provenance import file_list
from finetune_api.contracts.publish_targets import PublishTargetRequest
from finetune_api.contracts.result import PublishArtifacts, PublishedTarget, Result
from finetune_api.contracts.stage_request import PublishStageRequest
from finetune_trainer.checkpointing import manifest, published
from finetune_trainer.errors import TrainerError
from finetune_trainer.publishing import publish
from finetune_trainer.runtime.progress import Progress
from finetune_trainer.runtime.signals import StopRequest
from finetune_trainer.volume.files import fresh
from finetune_trainer.volume_layout import Layout

BUILD = "b1"
ZEROS = "zeros.safetensors"
TEXT_OF_A_ROW = "What is the capital of the moon?"
HISTORY = {
    "loss": [(step, 3.0 / step) for step in range(1, 31)],
    "evalLoss": [(10, 1.5), (30, 1.25)],
}
"""Series of the loss history in the adapter's folder."""
SECRET = "correct horse battery"
ROOT = Path(__file__).parents[3]
"""The repository."""


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A volume with a base, an adapter and a merged model. The digests are those in a ledger."""

    job: JobConfig
    layout: Layout
    base: str
    adapter: str
    merged: str

    def target(self, what: str = "adapter", **fields: Any) -> dict[str, Any]:
        content = self.adapter if what == "adapter" else self.merged
        defaults = {"name": "main", "what": what, "content": content, "version": f"tiny-1-{what}"}
        return defaults | fields

    def request(self, *targets: dict[str, Any], **fields: Any) -> PublishStageRequest:
        return PublishStageRequest(
            config=str(self.config),
            work=str(self.layout.work),
            base_manifest=self.base,
            build=BUILD,
            adapter_manifest=self.adapter,
            targets=tuple(PublishTargetRequest(**each) for each in targets),
            **fields,
        )

    def copied(self, folder: Path) -> "Volume":
        shutil.copytree(self.layout.work, folder / "work")
        shutil.copyfile(self.config, folder / "job.json")
        return replace(self, layout=Layout(work=folder / "work"))

    @property
    def config(self) -> Path:
        return self.layout.work.parent / "job.json"


def volume(folder: Path, *, shard: int = 300_000, zeros: int = 0) -> Volume:
    """Make a volume. shard: bytes of the larger file of weights of the merged model.

    zeros: bytes of another file of it, ``ZEROS``, which occupies no space on the disk.
    """
    layout = Layout(work=folder / "work")
    document = tiny.job("hf://demo/tiny", "hf://demo/rows")
    job = JobConfig.model_validate(document)
    facts = {"source": "hf://demo/tiny", "baseCommit": "c" * 40, "warnings": [TEXT_OF_A_ROW]}
    weights = random.Random(1).randbytes
    tokenizer = {"tokenizer.json": b'{"a": 1}', "tokenizer_config.json": b"{}"}
    history = json.dumps(HISTORY).encode()
    card = {"README.md": b"# tiny\n", "loss.png": b"png", "loss_history.json": history}
    side = {"config.json": b"{}", "LICENSE": b"text"}
    base = _publish(
        layout,
        layout.base,
        published.BASE,
        job.digest,
        facts | {"license": "apache-2.0"},
        {**side, **tokenizer, "model.safetensors": weights(1000)},
    )
    adapter = _publish(
        layout,
        layout.adapter,
        published.ADAPTER,
        job.digest,
        facts | {"evalLoss": 1.25, "gpuSeconds": 90.5},
        {
            **card,
            "adapter_config.json": b'{"r": 8}',
            "adapter_model.safetensors": weights(200_000),
            "quantization.safetensors": weights(5_000),
            "events.out.tfevents.finetune": b"events",
            "rows.jsonl": TEXT_OF_A_ROW.encode(),
            "reference/sample.safetensors": TEXT_OF_A_ROW.encode(),
        },
    )
    merged = _publish(
        layout,
        layout.merged(BUILD),
        published.MERGED,
        f"{job.digest} {BUILD}",
        facts | {"adapter": adapter.digest},
        {
            **card,
            **side,
            **tokenizer,
            "model-00001-of-00002.safetensors": weights(shard),
            "model-00002-of-00002.safetensors": weights(shard // 4),
            "model.safetensors.index.json": b'{"weight_map": {}}',
            "additional_chat_templates/tools.jinja": b"{{ tools }}",
            "empty.safetensors": b"",
            "reference/sample.safetensors": TEXT_OF_A_ROW.encode(),
        },
        zeros=zeros,
    )
    (folder / "job.json").write_text(json.dumps(document))
    return Volume(
        job=job, layout=layout, base=base.sha256, adapter=adapter.sha256, merged=merged.sha256
    )


def of_models(folder: Path, *, base: Path, adapter: Path, merged: Path) -> Volume:
    """Make a volume with the files of models that libraries have written."""
    layout = Layout(work=folder / "work")
    document = tiny.job("hf://demo/tiny", "hf://demo/rows")
    job = JobConfig.model_validate(document)
    (folder / "job.json").write_text(json.dumps(document))
    proved = {
        kind: _publish(layout, place, kind, key, {}, _files(source)).sha256
        for kind, place, key, source in (
            (published.BASE, layout.base, job.digest, base),
            (published.ADAPTER, layout.adapter, job.digest, adapter),
            (published.MERGED, layout.merged(BUILD), f"{job.digest} {BUILD}", merged),
        )
    }
    return Volume(
        job=job,
        layout=layout,
        base=proved[published.BASE],
        adapter=proved[published.ADAPTER],
        merged=proved[published.MERGED],
    )


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _publish(
    layout: Layout,
    folder: Path,
    kind: str,
    key: str,
    facts: dict[str, Any],
    files: dict[str, bytes],
    *,
    zeros: int = 0,
) -> manifest.Manifest:
    scratch = fresh(layout.scratch(kind))
    for name, data in files.items():
        (scratch / name).parent.mkdir(exist_ok=True)
        (scratch / name).write_bytes(data)
    if zeros:
        with (scratch / ZEROS).open("wb") as file:
            file.truncate(zeros)
    return manifest.publish(scratch, folder, kind=kind, key=key, facts=facts)


def context(certificate: Certificate) -> ssl.SSLContext:
    """Return what a client of a test server trusts."""
    return ssl.create_default_context(cafile=str(certificate.authority))


@dataclass(frozen=True, kw_only=True)
class Published:
    """The outcomes of the targets, and the error of the stage."""

    targets: tuple[PublishedTarget, ...]
    error: TrainerError | None
    progress: Progress
    lists: dict[str, str] | None = None
    """The files of each content that the stage reports, by the digest of its manifest."""

    @property
    def files(self) -> dict[str, str]:
        """The files of the only content."""
        assert self.lists is not None
        (text,) = self.lists.values()
        return file_list.unpack(text)

    @property
    def only(self) -> PublishedTarget:
        (target,) = self.targets
        return target

    @property
    def failure(self) -> tuple[str, str]:
        """The reason and the message of the only target."""
        assert self.only.error is not None, self.only
        return self.only.error.reason, self.only.error.message


def run(
    found: Volume, *targets: dict[str, Any], environment: dict[str, str] | None = None
) -> Published:
    """Run the stage in this process."""
    progress = Progress("publish")
    error: TrainerError | None = None
    try:
        result = publish.run(
            found.job,
            found.layout,
            progress,
            StopRequest(),
            found.request(*targets),
            environment or {},
        )
        artifacts = result.artifacts
    except TrainerError as raised:
        error, artifacts = raised, raised.artifacts
    assert isinstance(artifacts, PublishArtifacts)
    return Published(
        targets=tuple(artifacts.targets), error=error, progress=progress, lists=artifacts.files
    )


PYTHONPATH = os.pathsep.join(str(ROOT / name) for name in ("trainer", "crds"))


def python(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program with the packages of the trainer alone."""
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        check=False,
    )


class Process:
    """The stage in a process of its own."""

    program = sys.executable

    def __init__(
        self,
        found: Volume,
        *targets: dict[str, Any],
        environment: dict[str, str],
        part: int,
        **fields: Any,
    ) -> None:
        self._message = found.layout.work.parent / "message"
        self._message.unlink(missing_ok=True)
        # Smaller parts than usual, so that a small model has many.
        # The environment first, as in a pod: libraries read it when they are imported.
        program = (
            "import sys; from finetune_trainer.runtime import environment; "
            "environment.configure(); "
            "from finetune_trainer.publishing.oci import blobs; "
            "from finetune_trainer.publishing.s3 import push as s3; "
            f"blobs.PART = s3.PART = {part}; s3.part_size = lambda size: {part}; "
            "from finetune_trainer.__main__ import main; sys.exit(main(sys.argv[1:]))"
        )
        self._process = subprocess.Popen(
            [self.program, "-c", program, found.request(*targets, **fields).to_argument()],
            env={
                **os.environ,
                **environment,
                "PYTHONPATH": PYTHONPATH,
                "FINETUNE_TERMINATION_LOG": str(self._message),
                "FINETUNE_METRICS_PORT": "off",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = ""

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process.poll() is None else None

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def wait_and_watch_memory(self) -> tuple[int, int]:
        """Return the exit status, and the largest resident memory in bytes."""
        peak = 0

        def watch() -> None:
            nonlocal peak
            while self.pid is not None:
                try:
                    status = Path(f"/proc/{self.pid}/status").read_text()
                except OSError:
                    return
                if found := re.search(r"VmHWM:\s+(\d+) kB", status):
                    peak = max(peak, int(found[1]) << 10)
                threading.Event().wait(0.05)

        thread = threading.Thread(target=watch)
        thread.start()
        status = self.wait()
        thread.join()
        return status, peak

    def wait(self) -> int:
        self.log = self._process.communicate(timeout=120)[1]
        return self._process.returncode

    @property
    def result(self) -> Result:
        found = Result.from_message(self._message.read_text())
        assert found is not None
        return found
