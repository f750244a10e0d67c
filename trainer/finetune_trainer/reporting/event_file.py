"""The event file of a training, which TensorBoard shows while the training runs and afterwards.

It has one record for each number of the loss history. An attempt begins with a new file, which
replaces the old one at once: it repeats the records up to the checkpoint, with their times, and the
attempt appends to it. So a step never occurs twice, and a record that a kill cut off disappears.

``SummaryWriter(purge_step=…)`` would save about 80 lines. However, its thread ends when a write
fails; the training then waits for ever in ``add_scalar``, and keeps its GPU (with a file limit of
1,000 bytes: at record 53 of 500). Here the stage ends with the error of the volume. In two runs,
its ``flush()`` left out 7 and 29 % of 30 records, and each attempt would add a file to the adapter.
"""

import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune_trainer.reporting.loss_history import LossHistory
from finetune_trainer.volume_layout import partial_path

FILE = "events.out.tfevents.finetune"
TAGS = {
    "loss": "train/loss",
    "learningRate": "train/learning_rate",
    "gradNorm": "train/grad_norm",
    "evalLoss": "eval/loss",
}
"""Series of the loss history → tag, as transformers names them. The others are not in the file,
which is the same if the training is interrupted."""
VERSION = "brain.Event:2"
HEADER, CHECKSUM = struct.Struct("<Q"), 4
"""A record has its length, a checksum of the length, its content, and a checksum of the content."""
FLUSH_SECONDS = 5.0
"""Interval of writing to the volume, besides checkpoints."""


class EventFile:
    """The event file of one attempt."""

    def __init__(self, path: Path, history: LossHistory) -> None:
        """Replace the file at ``path`` by one with the records of a history, then follow it.

        history: of the checkpoint that the attempt resumes from; empty at the beginning.
        """
        # Loads torch, so it is imported when a training begins.
        from tensorboardX.record_writer import RecordWriter

        pending = {
            (TAGS[name], step): value
            for name, points in history.series.items()
            if name in TAGS
            for step, value in points
        }
        kept = list(_known_events(path, pending.keys()))
        path.parent.mkdir(exist_ok=True)
        self._writer = RecordWriter(str(partial_path(path)))
        self._flushed = time.monotonic()
        self._write(_event(file_version=VERSION))
        for event in kept:
            self._write(event)
            pending.pop(_key(event), None)
        # The rest was written before a crash of the node, but did not reach the disk.
        for (tag, step), value in sorted(pending.items(), key=lambda item: item[0][1]):
            self._write(_scalar(step, tag, value))
        self._writer.flush()
        partial_path(path).replace(path)
        history.on_add = self.add

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append numbers of a step."""
        for name in (key for key in values if key in TAGS):
            self._write(_scalar(step, TAGS[name], values[name]))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write all records to the volume."""
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Write all records and close the file."""
        self._writer.flush()
        self._writer.close()

    def _write(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())


def read(path: Path) -> Iterator[Any]:
    """Yield the events of a file up to its end, or up to a record that was cut off or damaged."""
    from google.protobuf.message import DecodeError
    from tensorboardX.proto.event_pb2 import Event

    content = path.read_bytes() if path.is_file() else b""
    at = 0
    while len(content) - at >= HEADER.size:
        (length,) = HEADER.unpack_from(content, at)
        begin = at + HEADER.size + CHECKSUM
        at = begin + length + CHECKSUM
        if at > len(content):
            return
        try:
            yield Event.FromString(content[begin : begin + length])
        except DecodeError:
            return


def _known_events(path: Path, keys: Any) -> Iterator[Any]:
    """Yield the events of an earlier attempt up to the first one that the history lacks."""
    for event in read(path):
        if event.file_version:
            continue
        if _key(event) not in keys:
            return
        yield event


def _key(event: Any) -> tuple[str, int]:
    return event.summary.value[0].tag if event.summary.value else "", event.step


def _event(**fields: Any) -> Any:
    from tensorboardX.proto.event_pb2 import Event

    return Event(wall_time=time.time(), **fields)


def _scalar(step: int, tag: str, value: float) -> Any:
    from tensorboardX.summary import scalar

    return _event(step=step, summary=scalar(tag, value))
