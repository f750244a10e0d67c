"""Faults that are injected into a trainer process before its command starts."""

import errno
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.support.trainer import seccomp


@dataclass(frozen=True, kw_only=True)
class OutOfMemoryAbove:
    """A GPU on which a step with more than ``rows`` rows needs offloading of activations."""

    rows: int
    unless_offloaded: bool = False

    def __call__(self) -> None:
        import torch

        from finetune_trainer.training.backends.trainer import Trainer

        usual = Trainer.training_step
        rows, unless_offloaded = self.rows, self.unless_offloaded

        def step(trainer: Any, model: Any, inputs: Any, *rest: Any) -> Any:
            spared = unless_offloaded and trainer.request.memory.offload
            if len(inputs["input_ids"]) > rows and not spared:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return usual(trainer, model, inputs, *rest)

        Trainer.training_step = step  # type: ignore[assignment, method-assign]


@dataclass(frozen=True, kw_only=True)
class NotANumberAt:
    """A GPU that returns NaN in one step, at most ``times`` times per process."""

    step: int
    times: int
    in_gradient: bool = False

    def __call__(self) -> None:
        from finetune_trainer.training.backends.trainer import Trainer

        usual = Trainer.compute_loss
        left = [self.times]

        def compute(trainer: Any, *arguments: Any, **named: Any) -> Any:
            loss = usual(trainer, *arguments, **named)
            if trainer.state.global_step + 1 == self.step and left[0]:
                left[0] -= 1
                if not self.in_gradient:
                    return loss * float("nan")
                loss.register_hook(lambda gradient: gradient * float("inf"))
            return loss

        Trainer.compute_loss = compute


@dataclass(frozen=True, kw_only=True)
class WeightNotANumberAfter:
    """An adapter weight becomes NaN once, after a step whose loss was finite."""

    step: int

    def __call__(self) -> None:
        from finetune_trainer.training.backends.trainer import Trainer

        usual = Trainer._maybe_log_save_evaluate
        left = [1]

        def flip(trainer: Any, *arguments: Any, **named: Any) -> None:
            if trainer.state.global_step == self.step and left[0]:
                left[0] = 0
                weight = next(each for each in trainer.model.parameters() if each.requires_grad)
                weight.data.view(-1)[0] = float("nan")
            usual(trainer, *arguments, **named)

        Trainer._maybe_log_save_evaluate = flip


@dataclass(frozen=True, kw_only=True)
class AtFileOperation:
    """Call ``happens`` when the process accesses the volume for the ``count``-th time.

    The audit events of Python report every open, rename, mkdir and remove of Python code.
    """

    volume: Path
    count: int
    happens: Callable[[], None]

    def __call__(self) -> None:
        import sys

        volume, left = str(self.volume), [self.count]
        events = {"open", "os.rename", "os.mkdir", "os.remove", "shutil.rmtree", "os.chmod"}

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            if event not in events or not str(arguments[0]).startswith(volume):
                return
            left[0] -= 1
            if left[0] == 0:
                self.happens()

        sys.addaudithook(watch)


def unreadable() -> None:
    """Raise EIO, like a failing disk when a file is opened."""
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def killed() -> None:
    """Kill the process, like a power failure of the node."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, kw_only=True)
class KilledAfterCheckpoint:
    """Kill the process right after the checkpoint of a step was published."""

    step: int

    def __call__(self) -> None:
        from finetune_trainer.training.loop.monitor import Monitor

        usual = Monitor.on_save

        def saved(monitor: Monitor, step: int) -> None:
            usual(monitor, step)
            if step == self.step:
                killed()

        Monitor.on_save = saved  # type: ignore[assignment, method-assign]


@dataclass(frozen=True, kw_only=True)
class KilledAfterSeconds:
    """Kill the process after some seconds."""

    seconds: float

    def __call__(self) -> None:
        import threading

        timer = threading.Timer(self.seconds, killed)
        timer.daemon = True
        timer.start()


@dataclass(frozen=True, kw_only=True)
class KilledIn:
    """Kill the process ``seconds`` after the ``count``-th start of a part of the training.

    part: "step", "save" or "evaluate".
    """

    part: str
    count: int
    seconds: float

    def __call__(self) -> None:
        from finetune_trainer.training.backends import held_out
        from finetune_trainer.training.backends.trainer import Trainer
        from finetune_trainer.training.loop import checkpoint_folder

        owner, name = {
            "step": (Trainer, "training_step"),
            "save": (checkpoint_folder, "save"),
            "evaluate": (held_out, "evaluate"),
        }[self.part]
        usual = getattr(owner, name)
        left = [self.count]

        def begun(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                KilledAfterSeconds(seconds=self.seconds)()
            return usual(*arguments, **named)

        setattr(owner, name, begun)


@dataclass(frozen=True, kw_only=True)
class WritesFail:
    """Every write to a file fails, in any library, except writes to standard error.

    A seccomp filter answers instead of the kernel (seccomp(2); system calls of x86-64).
    """

    error: int

    def __call__(self) -> None:
        write, pwrite, writev, fsync, fdatasync, truncate, fallocate = 1, 18, 20, 74, 75, 77, 285
        failing = (write, pwrite, writev, fsync, fdatasync, truncate, fallocate)
        load, equal, greater, give = 0x20, 0x15, 0x25, 0x06
        number, descriptor = 0, 16
        program = [(load, 0, 0, number)]
        for at, call in enumerate(failing):
            program.append((equal, len(failing) - at, 0, call))
        program += [
            (give, 0, 0, 0x7FFF0000),
            (load, 0, 0, descriptor),
            (greater, 1, 0, 2),
            (give, 0, 0, 0x7FFF0000),
            (give, 0, 0, 0x00050000 | self.error),
        ]
        all_threads = 1
        seccomp.install(program, flags=all_threads)


@dataclass(frozen=True, kw_only=True)
class SlowDigests:
    """The digest of a shard takes ``seconds``, as for a large base."""

    seconds: float

    def __call__(self) -> None:
        import time

        from finetune_trainer.merging import base_digests

        usual = base_digests.check

        def slow(*arguments: Any) -> None:
            time.sleep(self.seconds)
            usual(*arguments)

        vars(base_digests)["check"] = slow


@dataclass(frozen=True, kw_only=True)
class SlowPieces:
    """A piece of a tensor takes ``seconds``, as on a slow CPU."""

    seconds: float

    def __call__(self) -> None:
        import time

        from finetune_trainer.merging.lora_delta import LoraMerger

        usual = LoraMerger._merge_piece

        def slow(folder: Any, *arguments: Any) -> Any:
            time.sleep(self.seconds)
            return usual(folder, *arguments)

        LoraMerger._merge_piece = slow  # type: ignore[assignment, method-assign]


@dataclass(frozen=True, kw_only=True)
class WrongSums:
    """The sums for one tensor of a merge are wrong by one percent."""

    name: str

    def __call__(self) -> None:
        from finetune_trainer.merging.lora_delta import LoraMerger

        usual = LoraMerger._cast

        def cast(folder: Any, values: Any, name: str) -> Any:
            return usual(folder, values * 1.01 if name == self.name else values, name)

        LoraMerger._cast = cast  # type: ignore[assignment, method-assign]


@dataclass(frozen=True, kw_only=True)
class HeldWhileLoading:
    """Loading the base takes minutes, in a library that can swallow exceptions.

    ``marker``: a file that is created when the loading starts.
    """

    marker: Path
    swallows: bool

    def __call__(self) -> None:
        import contextlib
        import time

        from finetune_trainer.quantization import quant_state

        usual = quant_state.record_quantization

        def record(model: Any) -> Any:
            with contextlib.suppress(*([BaseException] if self.swallows else [])):
                # Within the block: a stop may come as soon as the file exists.
                self.marker.touch()
                time.sleep(60)
            time.sleep(60)
            return usual(model)

        quant_state.record_quantization = record


def without_managed_memory() -> None:
    """The GPU is a virtual one without managed memory; the training itself runs on the CPU."""
    from finetune_trainer.devices import paged_optimizer
    from finetune_trainer.devices.capabilities import Device

    usual = paged_optimizer.fitting
    virtual = Device(name="NVIDIA A10-4Q", cuda=True, capability=(8, 6))

    def fitting(recipe: Any, device: Device) -> Any:
        return usual(recipe, virtual, probe=lambda: "error 801")

    vars(paged_optimizer)["fitting"] = fitting


def unsloth_in_float32() -> None:
    """No fault: accept float32 with Unsloth, which refuses it on a GPU only."""
    from finetune_trainer.compatibility import backend_choice

    kept = (each for each in backend_choice.OBSTACLES if "float32" not in each.reason)
    vars(backend_choice)["OBSTACLES"] = tuple(kept)


def without_native_bfloat16() -> None:
    """The processor has no instructions for bfloat16."""
    import importlib

    # Unsloth must be imported first; this module imports it with the settings of the trainer.
    importlib.import_module("finetune_trainer.training.backends.unsloth")
    runtime: Any = importlib.import_module("unsloth_zoo.cpu.runtime")
    runtime.cpu_flags = lambda: frozenset({"avx2"})
    runtime.cpu_bf16_supported.cache_clear()


def without_unsloth() -> None:
    """The image does not contain Unsloth."""
    import importlib.util

    usual = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> Any:
        return None if name == "unsloth" else usual(name, package)

    importlib.util.find_spec = find


@dataclass(frozen=True)
class OtherVersion:
    """The image contains another version of a library."""

    library: str
    version: str

    def __call__(self) -> None:
        import importlib.metadata

        usual = importlib.metadata.version

        def version(distribution_name: str) -> str:
            name = distribution_name
            return self.version if name == self.library else usual(name)

        importlib.metadata.version = version


@dataclass(frozen=True, kw_only=True)
class Ampere:
    """No fault: simulate TensorFloat-32. ``path``: file with the precision of float32 products."""

    path: Path

    def __call__(self) -> None:
        import dataclasses

        import torch

        from finetune_trainer.devices import device
        from finetune_trainer.training.backends.trainer import Trainer

        detected, usual = device.detect(), Trainer.training_step

        def step(*arguments: Any) -> Any:
            self.path.write_text(torch.backends.cuda.matmul.fp32_precision)
            return usual(*arguments)

        device.detect = lambda: dataclasses.replace(detected, capability=(8, 6))
        Trainer.training_step = step  # type: ignore[assignment, method-assign]


@dataclass(frozen=True, kw_only=True)
class RecordsStarts:
    """No fault: record the progress at which each part of a stage starts, one per line."""

    path: Path

    def __call__(self) -> None:
        from finetune_trainer.runtime.progress import Progress

        usual = Progress.start_from

        def start(progress: Progress, ratio: float) -> None:
            usual(progress, ratio)
            with self.path.open("a") as file:
                file.write(f"{ratio}\n")

        Progress.start_from = start  # type: ignore[assignment, method-assign]

    @property
    def shares(self) -> list[float]:
        return [float(line) for line in self.path.read_text().split()]


@dataclass(frozen=True, kw_only=True)
class RecordsInputs:
    """No fault: record the inputs of every forward pass as a pickle in ``path``."""

    path: Path

    def __call__(self) -> None:
        import pickle

        import torch

        from finetune_trainer.training.loop import resume

        usual = resume.run
        seen: list[dict[str, Any]] = []

        def keep(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            assert not arguments
            seen.append({k: v.clone() for k, v in named.items() if torch.is_tensor(v)})

        def run(trainer: Any, *rest: Any) -> None:
            trainer.model.register_forward_pre_hook(keep, with_kwargs=True)
            usual(trainer, *rest)
            self.path.write_bytes(pickle.dumps(seen))

        resume.run = run  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class RecordsReads:
    """No fault: append to ``path`` the fields of the recipe that the trainer reads.

    Reads by the code that only estimates, reports or selects the backend do not count.
    """

    path: Path
    without_effect = (
        "finetune_trainer.estimate",
        "finetune_trainer.reporting",
        "finetune_trainer.compatibility.backend_choice",
    )

    def __call__(self) -> None:
        from finetune_api.v1alpha1.training.training import Training

        self.watch(Training)

    def watch(self, model: Any, prefix: str = "") -> None:
        """Record the reads of the fields of a model; ``prefix`` comes before their names."""
        usual = model.__getattribute__
        fields = {
            name: f"{prefix}{info.alias or name}" for name, info in model.model_fields.items()
        }

        def read(group: Any, name: str) -> Any:
            if name in fields:
                reader = sys._getframe(1).f_globals["__name__"]
                if reader.startswith("finetune_trainer") and not reader.startswith(
                    self.without_effect
                ):
                    with self.path.open("a") as file:
                        file.write(f"{fields[name]}\n")
            return usual(group, name)

        model.__getattribute__ = read
        for name, info in model.model_fields.items():
            if hasattr(info.annotation, "model_fields"):
                self.watch(info.annotation, f"{fields[name]}.")


def log_adapter_dtypes() -> None:
    """No fault: log the dtype of the input of each adapter."""
    from finetune_trainer.runtime.log import log
    from finetune_trainer.training.loop import resume

    usual = resume.run

    def report(_: Any, given: tuple[Any, ...]) -> None:
        log(f"an adapter is given {given[0].dtype}")

    def run(trainer: Any, *rest: Any) -> None:
        for name, module in trainer.model.named_modules():
            if name.endswith("lora_A.default"):
                module.register_forward_pre_hook(report)
        usual(trainer, *rest)

    resume.run = run  # type: ignore[assignment]


@dataclass(frozen=True)
class UnknownFamily:
    """Removes a family from the table of model families."""

    name: str

    def __call__(self) -> None:
        from finetune_trainer.attention import families

        known = families.table()
        rest = {name: row for name, row in known.families.items() if name != self.name}
        families.table = lambda: replace(known, families=rest)  # type: ignore[assignment]
