"""A training that is killed or fails to write never uses an incomplete checkpoint."""

import errno
import itertools
import os
import platform
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.trainer.faults import (
    AtFileOperation,
    KilledAfterSeconds,
    KilledIn,
    WritesFail,
    killed,
    unreadable,
)
from tests.support.trainer.tiny import merged
from tests.support.trainer.workshop import Workshop
from tests.support.variants import variants
from tests.trainer.checkpointing.conftest import RECIPE
from tests.trainer.checkpointing.test_resume import adapter, prepared_copy
from tests.trainer.conftest import MakeWorkshop

from finetune_trainer.checkpointing import checkpoints, manifest
from finetune_trainer.volume.files import fresh

VERSIONS = {"torch": "2"}
FULL, BROKEN = WritesFail(error=errno.ENOSPC), WritesFail(error=errno.EIO)
needs_seccomp = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the filter names system calls of x86-64"
)


def scratch(folder: Path, step: int) -> Path:
    """Return a checkpoint of a backend for ``step``, ready to publish."""
    made = fresh(folder / ".writing-checkpoint")
    for name in ("adapter_model.safetensors", "optimizer.pt", "trainer_state.json"):
        (made / name).write_bytes(f"{name} {step}".encode() * 50)
    return made


def save(folder: Path, step: int) -> None:
    facts = {"step": step, "versions": VERSIONS}
    checkpoints.save(folder, scratch(folder, step), step=step, key="k", facts=facts)


def save_in_process(folder: Path, fault: Callable[[], None] | None, step: int) -> int:
    """Save a checkpoint in a separate process; return its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if fault is not None:
                fault()
            save(folder, step)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(
    "happens",
    [
        pytest.param(killed, id="killed"),
        pytest.param(FULL, id="full", marks=needs_seccomp),
        pytest.param(BROKEN, id="broken", marks=needs_seccomp),
    ],
)
def test_failure_of_every_file_operation_of_a_save(
    tmp_path: Path, happens: Callable[[], None]
) -> None:
    """The save of step 4 fails while three checkpoints exist; the oldest is due for deletion."""
    failed = 0
    for count in range(1, 1000):
        folder = tmp_path / str(count)
        folder.mkdir()
        for step in (1, 2, 3):
            save(folder, step)
        code = save_in_process(
            folder, AtFileOperation(volume=folder, count=count, happens=happens), 4
        )
        found = checkpoints.newest(folder, key="k", versions=VERSIONS)
        assert found is not None
        assert found.step == 4 if code == 0 else found.step in (3, 4)
        text = (found.path / "optimizer.pt").read_bytes()
        assert text == f"optimizer.pt {found.step}".encode() * 50
        save(folder, 5)
        names = sorted(path.name for path in folder.iterdir())
        assert (len(names), names[-1]) == (checkpoints.KEEP, "step-5"), names
        if code == 0 and failed:
            break
        failed += code != 0
    assert failed > 10


@needs_seccomp
@pytest.mark.parametrize("fault", variants([FULL, BROKEN], kept=[FULL]), ids=["full", "broken"])
@pytest.mark.parametrize("count", variants([4, 40, 90], kept=[40]))
def test_write_errors_from_any_point_on_leave_no_torn_folder(
    make: MakeWorkshop, uninterrupted_packed: Workshop, fault: WritesFail, count: int
) -> None:
    workshop = prepared_copy(make, uninterrupted_packed)
    at = AtFileOperation(volume=workshop.work, count=count, happens=fault)
    ended = workshop.with_fault(at).run("train")
    assert ended.code == (73 if fault is FULL else 75), ended.log
    assert ("raise spec.storage.size" in ended.log) == (fault is FULL)
    for folder in workshop.work.glob("**/manifest.json"):
        found = manifest.read(folder.parent)
        manifest.verify(folder.parent, kind=found.kind, key=None)
    workshop.succeed("train")
    assert adapter(workshop) == adapter(uninterrupted_packed)


@pytest.mark.parametrize("command", ["prepare", "train"])
@pytest.mark.parametrize("file", ["base/manifest.json", "dataset/manifest.json"])
def test_read_error_of_a_prepared_folder_is_transient(
    make: MakeWorkshop, uninterrupted_packed: Workshop, command: str, file: str
) -> None:
    workshop = prepared_copy(make, uninterrupted_packed)
    at = AtFileOperation(volume=workshop.work / file, count=1, happens=unreadable)
    ended = workshop.with_fault(at).run(command)
    assert (ended.code, ended.result["reason"]) == (75, "Transient"), ended.log
    assert "spec.storage.storageClassName" in ended.result["message"]
    assert {"base", "dataset"} <= set(workshop.published())


@pytest.fixture(scope="module")
def unslothed(make: MakeWorkshop) -> Workshop:
    workshop = make(**merged(RECIPE, {"training": {"advanced": {"backend": "unsloth"}}}))
    workshop.prepare_and_train()
    return workshop


def random_kill(number: int, volume: Path, draw: random.Random) -> Callable[[], None]:
    """Return the kill number ``number``; five consecutive kills are of five different kinds."""
    parts = {0: "step", 1: "save", 2: "evaluate"}
    kind = number % 5
    if kind in parts:
        return KilledIn(
            part=parts[kind], count=draw.randrange(1, 5), seconds=draw.uniform(0.0, 0.05)
        )
    if kind == 3:
        return AtFileOperation(volume=volume, count=draw.randrange(20, 200), happens=killed)
    return KilledAfterSeconds(seconds=draw.uniform(0.3, 3.0))


KINDS = 5
"""The kinds of kills that ``random_kill`` returns."""


@pytest.mark.parametrize(
    ("like", "cuts", "kills"),
    variants(
        [
            ("uninterrupted_packed", 1, KINDS),
            ("uninterrupted_packed", 5, 3 * KINDS),
            ("unslothed", 5, 3 * KINDS),
        ],
        kept=[("uninterrupted_packed", 1, KINDS)],
    ),
)
def test_training_killed_at_random_moments(
    make: MakeWorkshop,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    like: str,
    cuts: int,
    kills: int,
) -> None:
    """Kill the job ``cuts`` times during prepare, and ``kills`` times during training.

    A command that ends before its kill is run again; a training that ends must give the same
    adapter. ``CRASH_SEED=…`` repeats the same kills.
    """
    reference: Workshop = request.getfixturevalue(like)
    seed = int(os.environ.get("CRASH_SEED") or random.SystemRandom().randrange(2**32))
    with capsys.disabled():
        print(f"\n{like}: CRASH_SEED={seed}")
    draw = random.Random(seed)
    workshop = make()
    workshop.write(reference.job)
    while cuts > 0:
        cut = AtFileOperation(volume=workshop.work, count=draw.randrange(1, 60), happens=killed)
        ended = workshop.with_fault(cut).run("prepare")
        assert ended.code in (0, -signal.SIGKILL), ended.log
        cuts -= ended.code != 0
        if ended.code == 0:
            for made in ("base", "dataset"):
                shutil.rmtree(workshop.work / made)
    workshop.succeed("prepare")
    moments = (random_kill(number, workshop.work, draw) for number in itertools.count())
    while kills > 0:
        ended = workshop.with_fault(next(moments)).run("train")
        assert ended.code in (0, -signal.SIGKILL), ended.log
        kills -= ended.code != 0
        if ended.code == 0:
            assert adapter(workshop) == adapter(reference)
            for made in ("adapter", "checkpoints", "reference"):
                shutil.rmtree(workshop.work / made)
    workshop.succeed("train")
    assert adapter(workshop) == adapter(reference)
