"""Event recorder: equal events are counted in one object."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.kube_client import MemoryKube, job

from finetune_operator.kube.errors import OperatorError, Terminal
from finetune_operator.kube.recorder import BURST, Recorder, event_name, render
from finetune_operator.types import Event

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVENT = Event(type="Normal", reason="Trained", message="the adapter is trained")
TEXT = st.text(max_size=8)


def kube() -> tuple[MemoryKube, dict[str, object]]:
    memory = MemoryKube(job())
    return memory, memory.objects["FineTuneJob", "a", "demo"]


def names(memory: MemoryKube) -> list[str]:
    return [name for kind, _, name in memory.objects if kind == "Event"]


@given(TEXT, TEXT, TEXT, TEXT)
def test_the_name_depends_on_reason_and_message(a: str, b: str, c: str, d: str) -> None:
    first = Event(type="Normal", reason=a, message=b)
    second = Event(type="Normal", reason=c, message=d)
    assert (event_name(job(), first) == event_name(job(), second)) == ((a, b) == (c, d))


def test_the_name_depends_on_the_uid_of_the_job() -> None:
    other = job() | {"metadata": job()["metadata"] | {"uid": "another"}}
    assert event_name(job(), EVENT) != event_name(other, EVENT)
    assert event_name(job(), EVENT).startswith("demo.")


def test_a_note_has_at_most_1024_bytes() -> None:
    _, snapshot = kube()
    event = Event(type="Warning", reason="DatasetInvalid", message="ä" * 2000)
    body = render(snapshot, event, NOW, "pod")
    assert len(body["note"].encode()) <= 1024
    assert body["note"] == "ä" * 512


async def test_a_repeated_event_of_any_process_is_counted() -> None:
    memory, snapshot = kube()
    first, second = Recorder(memory, instance="pod"), Recorder(memory, instance="another")
    await first.record(snapshot, [EVENT], NOW)
    await first.record(snapshot, [EVENT], NOW)
    await second.record(snapshot, [EVENT], NOW + timedelta(minutes=10))
    (name,) = names(memory)
    series = memory.objects["Event", "a", name]["series"]
    assert series == {"count": 3, "lastObservedTime": "2026-01-01T00:10:00.000000Z"}


async def test_the_recorder_drops_the_events_above_the_limit() -> None:
    memory, snapshot = kube()
    events = [
        Event(type="Warning", reason="WarningRaised", message=f"warning {number}")
        for number in range(BURST + 5)
    ]
    recorder = Recorder(memory, instance="pod")
    for event in events:
        await recorder.record(snapshot, [event], NOW)
    assert names(memory) == [event_name(snapshot, event) for event in events[:BURST]]


async def test_a_rejected_event_does_not_block_the_next() -> None:
    memory, snapshot = kube()
    other = Event(type="Normal", reason="Merged", message="merged")

    def fault(verb: str, kind: str, name: str) -> OperatorError | None:
        return Terminal("forbidden") if name == event_name(snapshot, EVENT) else None

    memory.fault = fault
    await Recorder(memory, instance="pod").record(snapshot, [EVENT, other], NOW)
    assert names(memory) == [event_name(snapshot, other)]


def test_an_event_about_a_cluster_scoped_object_is_in_the_namespace_default() -> None:
    about = job()
    del about["metadata"]["namespace"]
    event = Event(type="Normal", reason="Checked", message="valid")
    body = render({**about, "kind": "FineTuneCatalog"}, event, NOW, "pod")
    assert body["metadata"]["namespace"] == "default"
    assert "namespace" not in body["regarding"]
    assert body["regarding"]["kind"] == "FineTuneCatalog"
