"""Every reason that people may read is explained, with its way out, and none that is not given."""

from tests.unit.docs.vocabulary import PAGE, documented, in_code

from finetune_operator.reconcile.diagnosis import CONTAINER_REASONS

UNSEEN = {"WaitingForPod", "WaitingForVolume", "WaitingForCleanup", *CONTAINER_REASONS}
"""Given by way of a variable; the tests of the plan meet each of them."""


def test_every_reason_is_explained() -> None:
    code = in_code()
    missing = {reason: code[reason] for reason in sorted(code.keys() - documented().keys())}
    assert not missing, f"add rows to {PAGE.name} for the reasons of these modules: {missing}"


def test_every_reason_that_is_explained_is_given() -> None:
    extra = documented().keys() - in_code().keys() - UNSEEN
    assert not extra, f"the code gives no such reason: {sorted(extra)}"


def test_every_row_has_a_cause_and_a_way_out() -> None:
    short = [reason for reason, cells in documented().items() if not all(cells)]
    assert not short


def test_a_reason_has_one_row() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [reason for reason in documented() if text.count(f"\n| `{reason}`") != 1] == []


def test_the_scan_finds_what_is_known_to_be_there() -> None:
    """By keyword, attribute, default, constant, dictionary of constants, pair and condition."""
    known = {"InvalidSpec", "VolumeFull", "FailedCreate", "ProgressDeadlineExceeded", "Merging"}
    assert known | {"Available", "NotAvailable", "SuspendedByUser"} <= in_code().keys()
