"""The tables of the models and adapters that fit each GPU agree with ``ftj estimate``."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.docs.links import ROOT
from tests.unit.trainer import shapes

from finetune_api.contracts.stage_request import EndpointSettings
from finetune_api.v1alpha1.endpoints.spec import FineTuneEndpointSpec
from finetune_cli.offline import estimate, job_file
from finetune_trainer.devices import cards
from finetune_trainer.estimate import endpoint, shape

PAGES = ("README.md", "docs/concepts/estimates.md")
JOB = re.compile(r"^```yaml\n(apiVersion.*?name: largest.*?)^```", re.MULTILINE | re.DOTALL)
LADDER: dict[str, dict[str, Any]] = {
    "Qwen3-4B": shapes.QWEN3_4B,
    "Qwen3-8B": shapes.QWEN3_8B,
    "Qwen3-14B": shapes.QWEN3_14B,
    "Qwen3-32B": shapes.QWEN3_32B,
    "Llama-3.1-70B": shapes.LLAMA31_70B,
}
"""The models that are compared, the smallest first."""
STORAGE = {"Qwen3-32B": "130Gi", "Llama-3.1-70B": "280Gi"}


def rows() -> Iterator[tuple[str, str, str, str]]:
    """Yield page, card and the two models of each row, once per card."""
    for page in PAGES:
        for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            names = cells[0].split(", ")
            if line.startswith("| ") and names[0] in cards.CARDS and len(cells) <= 4:
                for name in names:
                    yield page, name, cells[-2], cells[-1]


def counts() -> Iterator[tuple[str, str, int]]:
    """Yield card, model and number of each cell in the table of endpoints."""
    _, _, section = (ROOT / PAGES[1]).read_text(encoding="utf-8").partition("## Adapters per GPU")
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:2] == "| "]
    (_, *models), *rows_of_table = lines
    for names, *numbers in rows_of_table:
        for card in names.split(", "):
            for model, number in zip(models, numbers, strict=True):
                yield card, model, int(number)


def fits(name: str, card: str, folder: Path, *, serves: bool) -> bool:
    """Return whether the job of the page fits with this model."""
    found = JOB.search((ROOT / PAGES[1]).read_text(encoding="utf-8"))
    assert found is not None
    job = yaml.safe_load(found[1])
    advanced = {"backend": "trl"}
    if card == "Tesla-T4":
        advanced["quantization"] = {"computeDtype": "float16"}  # type: ignore[assignment]
    job["spec"]["training"]["advanced"] = advanced
    job["spec"]["serving"]["enabled"] = serves
    if name in STORAGE:
        job["spec"]["storage"] = {"size": STORAGE[name]}
    (folder / "config.json").write_text(json.dumps(LADDER[name]))
    estimated = estimate.of(job_file.of([job], at="the page"), model=folder, card=card)
    return estimated.refusal is None


def test_both_pages_have_the_same_rows() -> None:
    tables = [[row[1:] for row in rows() if row[0] == page] for page in PAGES]
    assert tables[0] == tables[1] != []


@pytest.mark.parametrize(
    ("card", "served", "trained"), [row[1:] for row in rows() if row[0] == PAGES[1]]
)
def test_no_larger_model_fits(tmp_path: Path, card: str, served: str, trained: str) -> None:
    largest = [
        max(
            (name for name in LADDER if fits(name, card, tmp_path, serves=serves)),
            key=[*LADDER].index,
        )
        for serves in (True, False)
    ]
    assert largest == [served, trained]


@pytest.mark.parametrize(("card", "model", "number"), [*counts()])
def test_so_many_adapters_fit(card: str, model: str, number: int) -> None:
    base = shape.read((LADDER | {"Llama-3.1-8B": shapes.LLAMA31_8B})[model])
    assert base is not None
    document = {"model": {"source": "hf://acme/base"}, "maxModelLen": 8192}
    spec = FineTuneEndpointSpec.model_validate(document)
    assert spec.lora.max_rank == 16
    assert endpoint.most_adapters(base, EndpointSettings.of(spec), cards.CARDS[card]) == number


def test_storage_of_the_page_is_the_one_that_is_tested() -> None:
    text = " ".join((ROOT / PAGES[1]).read_text(encoding="utf-8").split())
    assert f"`storage.size` of {' and '.join(STORAGE.values())}" in text
