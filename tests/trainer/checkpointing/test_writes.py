"""ENOSPC and EIO at every write: an error or an earlier checkpoint, but never an incomplete one.

A command fails once at each place where it changes a file of the volume. Each attempt continues
with the files of the previous attempt.
"""

import errno
import json
import platform
import shutil
from pathlib import Path

import pytest
from tests.support.trainer.failing_syscalls import Commands, Fault, Site, commands
from tests.support.trainer.workshop import Workshop, request
from tests.support.variants import variants
from tests.trainer.conftest import MakeWorkshop

from finetune_trainer.checkpointing import manifest
from finetune_trainer.reporting import event_file

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the filter names system calls of x86-64"
)
FAULTS = ((errno.ENOSPC, True), (errno.EIO, False))
"""Errors, and whether they last: a full disk stays full, a read error can happen once."""
VARYING = {"README.md", "loss.png", event_file.FILE}
"""Files whose content depends on the attempts, or that are omitted if they cannot be written."""
SWALLOWED = {"lock.json"}
"""Informational files; a write error of these does not fail the command."""


class Attempts:
    """Attempts of one command, on a volume that ``reset`` restores to ``before``."""

    def __init__(
        self, workshop: Workshop, process: Commands, before: Path, command: str, **fields: str
    ) -> None:
        self.workshop = workshop
        self.process = process
        self.before = before
        config = workshop.folder / "job.json"
        self.arguments = [request(command, config, workshop.work, **fields)]
        self.reset()
        assert self.run() == 0
        self.sites = list(dict.fromkeys(process.volume.seen))
        self.expected = published(workshop.work)
        self.reset()

    def reset(self) -> None:
        shutil.rmtree(self.workshop.work)
        shutil.copytree(self.before, self.workshop.work)

    def run(self, fault: Fault | None = None) -> int:
        environment = {
            "FINETUNE_TERMINATION_LOG": str(self.workshop.folder / "result"),
            "FINETUNE_METRICS_PORT": "off",
        }
        return self.process.run(self.arguments, environment, fault)

    def done(self, left: dict[str, dict[str, str]]) -> bool:
        """Report whether all results are published; older checkpoints can also exist."""
        return self.expected.items() <= left.items()

    @property
    def result(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.workshop.folder / "result").read_text())
        return found


def published(work: Path) -> dict[str, dict[str, str]]:
    """Return the digests of all files in folders that have a manifest."""
    found = {}
    for path in sorted(work.glob("**/manifest.json")):
        folder = path.parent
        if folder.name.startswith(".") or folder.parent.name.startswith("."):
            continue
        listed = manifest.read(folder)
        manifest.verify(folder, kind=listed.kind, key=None)
        found[str(folder.relative_to(work))] = {
            entry.name: entry.sha256 for entry in listed.files if entry.name not in VARYING
        }
    return found


def wrong_outcome(attempts: Attempts, site: Site, error: int, lasting: bool) -> str | None:
    """Run an attempt with a fault; return a description of a wrong outcome, or None."""
    fault = Fault(site=site, count=1, error=error, lasting=lasting)
    code = attempts.run(fault)
    if not attempts.process.volume.failed:
        # An earlier attempt has already done this write.
        attempts.reset()
        code = attempts.run(fault)
    assert attempts.process.volume.failed, site
    left, result = published(attempts.workshop.work), attempts.result
    torn = [
        f"{name}/{file}"
        for name, files in left.items()
        for file, digest in files.items()
        if attempts.expected.get(name, files).get(file) != digest
    ]
    if code == 0:
        fine = attempts.done(left) and not (lasting and site.path not in SWALLOWED)
        attempts.reset()
    else:
        expected = (73, "VolumeFull") if error == errno.ENOSPC else (75, "Transient")
        fine = (code, result["reason"]) == expected and "spec.storage.s" in result["message"]
    if fine and not torn:
        return None
    return f"{errno.errorcode[error]}: {site}: {code}, {torn}, {sorted(left)}, {result}"


@pytest.mark.parametrize(
    ("command", "stride"),
    variants(
        [*((command, 1) for command in ("prepare", "train", "merge")), ("merge", 6)],
        kept=[("merge", 6)],
    ),
)
def test_fault_at_every_written_path(
    make: MakeWorkshop, capsys: pytest.CaptureFixture[str], command: str, stride: int
) -> None:
    """Fail at each place, or at every sixth one."""
    workshop = make(
        dataset={"validationFraction": 0.25},
        training={"maxSteps": 3, "advanced": {"saveSteps": 1, "evalSteps": 3}},
    )
    for earlier in {"prepare": [], "train": ["prepare"], "merge": ["prepare", "train"]}[command]:
        workshop.succeed(earlier)
    before = workshop.folder / "before"
    shutil.copytree(workshop.work, before)
    fields = {"build": "b1"} if command == "merge" else {}
    server = workshop.servers["trl"]
    with commands(server, workshop.work, workshop.folder / "log") as process:
        attempts = Attempts(workshop, process, before, command, **fields)
        found = [
            wrong_outcome(attempts, site, *fault)
            for site in attempts.sites[::stride]
            for fault in FAULTS
        ]
        assert attempts.run() == 0
    assert not [each for each in found if each]
    assert attempts.done(published(workshop.work))
    assert len(attempts.sites) > 30
    with capsys.disabled():
        print(f"\n{command}: ENOSPC and EIO at {len(attempts.sites[::stride])} places")
