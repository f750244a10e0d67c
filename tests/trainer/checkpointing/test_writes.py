"""ENOSPC and EIO at every write: an error or an earlier checkpoint, never a torn one.

A command meets a fault at each place in turn where it changes something on the volume, and each
attempt goes on from what the one before it has left.
"""

import errno
import json
import platform
import shutil
from pathlib import Path

import pytest
from tests.trainer.conftest import MakeWorkshop
from tests.trainer.support.failing_syscalls import Commands, Fault, Site, commands
from tests.trainer.support.workshop import Workshop

from finetune_trainer.checkpointing import manifest

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the filter names system calls of x86-64"
)
FAULTS = ((errno.ENOSPC, True), (errno.EIO, False))
"""A disk that is full stays so; one that fails may do so once, and take what comes after it."""
TOLD = {"README.md", "loss.png"}
"""What tells of the attempts, too, and a picture that is left out where it cannot be written."""
SWALLOWED = {"lock.json"}
"""What is for people, and ends no command."""


class Attempts:
    """Attempts at one command, on a volume that is as ``before`` where that is asked for."""

    def __init__(
        self, workshop: Workshop, process: Commands, before: Path, command: str, *options: str
    ) -> None:
        self.workshop = workshop
        self.process = process
        self.before = before
        self.arguments = [command, "--config", f"{workshop.folder}/job.json"]
        self.arguments += ["--work", str(workshop.work), *options]
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
        """Tell whether all is there; older checkpoints may be, too."""
        return self.expected.items() <= left.items()

    @property
    def result(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.workshop.folder / "result").read_text())
        return found


def published(work: Path) -> dict[str, dict[str, str]]:
    """Return the digests of all files of what claims to be whole, as they are."""
    found = {}
    for path in sorted(work.glob("**/manifest.json")):
        folder = path.parent
        if folder.name.startswith(".") or folder.parent.name.startswith("."):
            continue
        listed = manifest.read(folder)
        manifest.verify(folder, kind=listed.kind, key=None)
        found[str(folder.relative_to(work))] = {
            entry.name: entry.sha256 for entry in listed.files if entry.name not in TOLD
        }
    return found


def wrong(attempts: Attempts, site: Site, error: int, lasting: bool) -> str | None:
    """Let an attempt meet a fault; return what is wrong with its end, or with what it leaves."""
    fault = Fault(site=site, count=1, error=error, lasting=lasting)
    code = attempts.run(fault)
    if not attempts.process.volume.failed:
        # An earlier attempt has done it already.
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


@pytest.mark.parametrize("command", ["prepare", "train", "merge"])
def test_fault_at_every_written_path(
    make: MakeWorkshop, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    workshop = make(
        dataset={"validationFraction": 0.25},
        training={"maxSteps": 3, "advanced": {"saveSteps": 1, "evalSteps": 3}},
    )
    for earlier in {"prepare": [], "train": ["prepare"], "merge": ["prepare", "train"]}[command]:
        workshop.succeed(earlier)
    before = workshop.folder / "before"
    shutil.copytree(workshop.work, before)
    options = ["--build", "b1"] if command == "merge" else []
    server = workshop.servers["trl"]
    with commands(server, workshop.work, workshop.folder / "log") as process:
        attempts = Attempts(workshop, process, before, command, *options)
        found = [wrong(attempts, site, *fault) for site in attempts.sites for fault in FAULTS]
        assert attempts.run() == 0
    assert not [each for each in found if each]
    assert attempts.done(published(workshop.work))
    assert len(attempts.sites) > 30
    with capsys.disabled():
        print(f"\n{command}: ENOSPC and EIO at {len(attempts.sites)} places")
