"""``ftj compare``: which calls are wrong, and which models are not asked."""

import pytest
from tests.unit.cli.jobs.conftest import Run


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
    run: Run, arguments: tuple[str, ...], code: int, words: str
) -> None:
    found, out, err = run("compare", *arguments)
    assert (found, out) == (code, "")
    assert err.startswith("ftj compare: ")
    assert words in err
    assert err.count("\n") == 1
