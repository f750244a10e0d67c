"""Objects as bytes."""

import zlib
from typing import Any

import pytest

from finetune_operator.objects.encoding import encoded
from finetune_operator.snapshot.packing import MOST_BYTES, Packing


def pod(number: int) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "metadata": {"name": f"demo-{number}", "uid": f"{number:032x}", "labels": {"a": "b"}},
        "spec": {"containers": [{"name": f"container-{each}"} for each in range(20)]},
        "status": {"phase": "Running", "restarts": number, "ready": True, "reason": None},
    }


def test_objects_are_read_as_they_were_written() -> None:
    packing = Packing()
    for number in range(5):
        assert packing.unpack(packing.pack(encoded(pod(number)))) == pod(number)


@pytest.mark.parametrize("first", [{}, {"a": "x" * (2 * MOST_BYTES)}])
def test_the_first_object_may_be_unusual(first: dict[str, Any]) -> None:
    packing = Packing()
    packed = packing.pack(encoded(first))
    assert packing.unpack(packing.pack(encoded(pod(1)))) == pod(1)
    assert packing.unpack(packed) == first


def test_equal_objects_have_equal_bytes_and_others_do_not() -> None:
    packing = Packing()
    first = packing.pack(encoded(pod(1)))
    assert packing.pack(encoded(pod(1))) == first
    assert packing.pack(encoded(pod(2))) != first


def test_similar_objects_are_small() -> None:
    packing = Packing()
    packing.pack(encoded(pod(1)))
    alone = zlib.compress(encoded(pod(2)), level=1)
    assert len(packing.pack(encoded(pod(2)))) < len(alone) / 2
