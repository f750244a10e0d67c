"""Laws of a status, by itself and next to the one before it."""

from collections.abc import Iterator
from typing import Any

from tests.fakes.apiserver import Thing


def prevented(status: Any) -> bool:
    """Report whether the revision that the spec describes cannot start."""
    return status["conditions"][0]["reason"] in ("InvalidSpec", "ProfileNotFound", "ProfileInvalid")


def only_reported(status: Any) -> bool:
    """Report whether nothing but conditions was written, because no revision continues."""
    return prevented(status) and "continues meanwhile" not in status["conditions"][0]["message"]


def numbers(value: Any) -> Iterator[float]:
    """Yield all numbers of a JSON value."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers(each)
    elif isinstance(value, int | float):
        yield value


def well_formed(status: Thing, *, generation: int | None) -> None:
    """Check the conditions of a job. generation: of its metadata now; None: not comparable."""
    found = {each["type"]: each for each in status["conditions"]}
    assert len(found) == len(status["conditions"])
    for name in ("Reconciling", "Stalled"):
        assert found.get(name, {"status": "True"})["status"] == "True"
    ready = found["Ready"]["status"] == "True"
    paused = found["Suspended"]["reason"] == "SuspendedByUser"
    states = [ready, paused, "Reconciling" in found, "Stalled" in found]
    unable = prevented(status)
    assert sum(states) == 1 or (unable and not ready and "Reconciling" not in found), states
    assert generation is None or status["observedGeneration"] <= generation
    ended = ready or ("Stalled" in found and found["Finished"]["status"] == "True")
    finished, publishes = found["Finished"]["status"] == "True", waits_for_publishing(found)
    assert finished == (ended and not publishes)
    messages = [each["message"] for each in status["conditions"]]
    assert messages.count(found["Ready"]["message"]) == 1, "other conditions refer to it"
    cause = "Published" if publishes else "Ready"
    assert found["Finished"]["reason"] == found[cause]["reason"]
    current = {name for name in found if name in ("Ready", "Finished", "Stalled")}
    for name in current if only_reported(status) else found:
        assert found[name]["observedGeneration"] == status["observedGeneration"], name


def consistent(before: Thing, after: Thing, *, lost_volume: bool) -> None:
    """Compare a status with the one before it. lost_volume: whether a user deleted a volume."""
    known = {each["type"]: each for each in before["conditions"]}
    for each in after["conditions"]:
        old = known.get(each["type"])
        if old and old["status"] == each["status"]:
            assert old["lastTransitionTime"] == each["lastTransitionTime"], each["type"]
    if before.get("revision") == after.get("revision"):
        an_end_is_final(before, after, lost_volume=lost_volume)
        seconds = [one.get("training", {}).get("gpuSeconds", 0) for one in (before, after)]
        assert seconds[0] <= seconds[1]


def an_end_is_final(before: Thing, after: Thing, *, lost_volume: bool) -> None:
    """A failure is followed by another outcome only after an edit or a user's deletion."""
    one, other = (
        {each["type"]: each for each in status["conditions"]} for status in (before, after)
    )
    failed = "Stalled" in one and one["Finished"]["status"] == "True"
    if failed and before["observedGeneration"] == after["observedGeneration"]:
        ended = other["Finished"]["status"] == "True" or waits_for_publishing(other)
        assert ended or lost_volume, other["Ready"]


def waits_for_publishing(found: Thing) -> bool:
    """Report whether nothing but publishing keeps a job from being finished. found: conditions."""
    published = found.get("Published", {"status": "True"})["status"]
    return bool(published != "True" and "Publishing" in found["Finished"]["message"])
