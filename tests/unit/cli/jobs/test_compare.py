"""``ftj compare``: which calls are wrong, and which models are not asked."""

import io
import sys

import pytest
from tests.unit.cli.jobs.conftest import Objects, Run

from finetune_cli.cluster import served
from finetune_operator.objects import endpoints


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff"])
def test_stdin_without_a_prompt_is_a_wrong_call(
    run: Run, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    code, out, err = run("compare", "velmora", "velmora-base")
    assert (code, out, err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("velmora", "-m", "Hi"), 2, "name at least two models"),
        (("velmora", "velmora", "-m", "Hi"), 2, "name at least two models"),
        (("velmora", "absent", "-m", "Hi"), 1, "no pod of FineTuneJob velmora answers requests"),
        (("absent", "velmora", "-m", "Hi"), 1, "FineTuneJob absent does not exist"),
        (("absent-base", "velmora", "-m", "Hi"), 1, "FineTuneJob absent does not exist"),
    ],
)
def test_a_call_that_cannot_be_answered_is_one_line(
    run: Run, arguments: tuple[str, ...], code: int, words: str, objects: Objects
) -> None:
    for each in objects["/api/v1/namespaces/team-a/pods"]:
        each["status"].pop("conditions", None)
    found, out, err = run("compare", *arguments)
    assert (found, out) == (code, "")
    assert err.startswith("ftj compare: ")
    assert words in err
    assert err.count("\n") == 1


def test_the_stage_of_the_pods_of_an_endpoint_is_that_of_the_operator() -> None:
    assert served.SHARED_STAGE == endpoints.SERVING
