"""Events: one object for one thing said, and nothing said twice for no reason."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.kube_client import MemoryKube, job

from finetune_operator.kube.errors import OperatorError, Terminal
from finetune_operator.kube.recorder import Recorder, name_of, rendered
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
def test_a_name_says_what_was_said(a: str, b: str, c: str, d: str) -> None:
    first = Event(type="Normal", reason=a, message=b)
    second = Event(type="Normal", reason=c, message=d)
    same = "\n".join((a, b)) == "\n".join((c, d))
    assert (name_of(job(), first) == name_of(job(), second)) == same


def test_a_name_says_about_whom() -> None:
    other = job() | {"metadata": job()["metadata"] | {"uid": "another"}}
    assert name_of(job(), EVENT) != name_of(other, EVENT)
    assert name_of(job(), EVENT).startswith("demo.")


def test_a_note_fits_into_an_event_whatever_its_alphabet() -> None:
    _, snapshot = kube()
    event = Event(type="Warning", reason="DatasetInvalid", message="ä" * 2000)
    body = rendered(snapshot, event, NOW, "pod")
    assert len(body["note"].encode()) <= 1024
    assert body["note"] == "ä" * 512


async def test_the_same_said_again_by_whatever_process_is_a_count() -> None:
    memory, snapshot = kube()
    first, second = Recorder(memory, instance="pod"), Recorder(memory, instance="another")
    await first.record(snapshot, [EVENT], NOW)
    await first.record(snapshot, [EVENT], NOW)
    await second.record(snapshot, [EVENT], NOW + timedelta(minutes=10))
    (name,) = names(memory)
    series = memory.objects["Event", "a", name]["series"]
    assert series == {"count": 3, "lastObservedTime": "2026-01-01T00:10:00.000000Z"}


async def test_an_event_that_is_refused_keeps_nothing_from_going_on() -> None:
    memory, snapshot = kube()
    other = Event(type="Normal", reason="Merged", message="merged")

    def fault(verb: str, kind: str, name: str) -> OperatorError | None:
        return Terminal("may not") if name == name_of(snapshot, EVENT) else None

    memory.fault = fault
    await Recorder(memory, instance="pod").record(snapshot, [EVENT, other], NOW)
    assert names(memory) == [name_of(snapshot, other)]
