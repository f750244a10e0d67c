"""The reference pages contain every field, exit code and reason."""

import re

import pytest
from tests.support.leaves import LEAVES, Leaf, path_of

from finetune_api.contracts.exitcodes import ExitCode, Retry
from finetune_api.crd.reference import EFFECTS, api_page, exit_codes_page, reasons_page
from finetune_api.crd.remediations import GROUPS
from finetune_api.crd.remediations.failures import FAILED, RETRIED
from finetune_api.crd.remediations.other import LOGS
from finetune_api.crd.remediations.waiting import PROGRESS, STALLS_AFTER_DEADLINE, WAITING
from finetune_api.crd.resources import FINETUNEJOB
from finetune_api.v1alpha1.reasons import Reason, Use
from finetune_api.v1alpha1.status.job import FineTuneJobStatus

PAGE = api_page(FINETUNEJOB)


def _sections() -> dict[str, list[list[str]]]:
    """Return the rows of the table of each section, by heading."""
    sections = {}
    for text in re.split(r"^#{2,3} ", PAGE, flags=re.MULTILINE)[1:]:
        heading, _, body = text.partition("\n")
        rows = re.findall(r"^\| (.*) \|$", body, re.MULTILINE)[2:]
        sections[heading] = [re.split(r"(?<!\\) \| ", row) for row in rows]
    return sections


SECTIONS = _sections()


def _row(path: str) -> list[str]:
    section, _, name = path.rpartition(".")
    (row,) = (row for row in SECTIONS[section] if row[0] == f"`{name}`")
    return row


@pytest.mark.parametrize("leaf", LEAVES, ids=str)
def test_every_field_of_the_spec_has_a_row(leaf: Leaf) -> None:
    row = _row(path_of(leaf))
    assert row[3] == EFFECTS[leaf.edit]
    assert (row[2] == "required") is leaf.info.is_required()
    assert all(cell.strip() for cell in row)


def test_every_field_of_the_status_has_a_row() -> None:
    assert [row[0] for row in SECTIONS["status"]] == [
        f"`{info.alias}`" for info in FineTuneJobStatus.model_fields.values()
    ]
    linked = {link for row in SECTIONS["status"] for link in re.findall(r"\(#(\w+)\)", row[1])}
    assert linked <= {re.sub(r"\W", "", heading).lower() for heading in SECTIONS}
    assert len(linked) == 12


ROWS = [
    ("spec.training.learningRate", "number", "`0.0002`", "Greater than 0. At most 1."),
    ("spec.training.lora.dropout", "number", "`0.0`", "At least 0. Less than 1."),
    ("spec.training.epochs", "number", "3 if maxSteps is unset", "At most 1000."),
    ("spec.training.lora.targetModules", "list of strings", "`q_proj, ", "1 to 32 items."),
    ("spec.merge.base", "string", "`dequantized`", "One of `dequantized`, `original`."),
    ("spec.storage.size", "quantity", "`60Gi`", "At most 27 characters."),
    ("spec.resources.train", "[object](#specresourcestrain)", "`{requests: ", ""),
    ("spec.resources.train.limits", "map of quantity", "the standard limits", "At most 8 entries."),
    ("spec.placement.tolerations", "list of [object](#specplacementtolerations)", "none", ""),
]


@pytest.mark.parametrize(
    ("path", "type_", "default", "limits"), ROWS, ids=[path for path, *_ in ROWS]
)
def test_row_names_type_default_and_limits(
    path: str, type_: str, default: str, limits: str
) -> None:
    row = _row(path)
    assert row[1] == type_
    assert row[2].startswith(default)
    assert row[4].endswith(limits)


def test_sections_list_the_validation_rules() -> None:
    section = PAGE.partition("### spec.dataset\n")[2].partition("###")[0]
    rule = "* chatTemplate and promptFormat are mutually exclusive: remove one of them.\n"
    assert rule in section
    assert "* `split`: " not in section
    assert "* Write split as a single name, such as train.\n" in section


def test_exit_codes_page_lists_every_code_with_its_retry_policy() -> None:
    page = exit_codes_page()
    rows = re.findall(r"^\| (\d+) \| (.*) \| (.*) \| (\w+) \|$", page, re.MULTILINE)
    assert [int(code) for code, *_ in rows] == [code.value for code in ExitCode]
    assert {int(code): retry for code, *_, retry in rows} == {
        code.value: code.retry.name.lower() for code in ExitCode
    }
    assert all(f"* *{retry.name.lower()}*: {retry.value}\n" in page for retry in Retry)


def test_reasons_page_lists_every_reason_with_its_remediation() -> None:
    page = reasons_page()
    rows = re.findall(r"^\| `(\w+)`(?: \*)? \| (.+) \|$", page, re.MULTILINE)
    cells = {
        reason: [cell for cell in re.split(r"(?<!\\) \| ", row) if cell.strip()]
        for reason, row in rows
    }
    assert len(rows) == len(cells)
    assert cells == {
        reason.value: [
            each.replace("|", "\\|") for each in (reason.doc, text, ", ".join(reason.uses)) if each
        ]
        for group in GROUPS
        for reason, text in group.texts.items()
    }
    assert cells.keys() == {reason.value for reason in Reason}


def test_every_reason_that_waits_or_fails_has_a_remediation() -> None:
    missing = [
        reason
        for group in (WAITING, FAILED, RETRIED, LOGS)
        for reason, text in group.texts.items()
        if not text.endswith(".")
    ]
    assert missing == []
    ready = {reason for reason in Reason if Use.READY in reason.uses}
    assert ready <= {reason for group in (PROGRESS, WAITING, FAILED) for reason in group.texts}


def test_reasons_with_a_mark_are_those_that_stall_after_the_deadline() -> None:
    marked = re.findall(r"^\| `(\w+)` \* \|", reasons_page(), re.MULTILINE)
    assert marked == [reason.value for reason in STALLS_AFTER_DEADLINE]
    assert set(STALLS_AFTER_DEADLINE) < WAITING.texts.keys()
