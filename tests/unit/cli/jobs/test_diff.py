"""``ftj diff``: the fields and the results in which two revisions differ."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.cli.jobs.conftest import Objects, Run

from clidocs.example_jobs import EARLIER, PRESENT
from clidocs.example_objects import CORE

Job = Callable[[str], dict[str, Any]]


def test_fields_and_results_that_differ_are_shown(run: Run) -> None:
    code, text, err = run("diff", "velmora", EARLIER, PRESENT)
    assert (code, err) == (0, "")
    spec, results = text.split("Results")
    lines = [line.split() for line in spec.splitlines()]
    assert ["training.epochs", "2", "3"] in lines
    assert ["training.learningRate", "0.0008", "0.0002"] in lines
    assert ["profile.price.currency", "-", "EUR"] in lines
    assert "model.source" not in spec, "both have the same model"
    found = [" ".join(line.split()) for line in results.splitlines()]
    assert "difference from the base model -0.2585 ± 0.031 -0.4809 ± 0.031" in found
    assert "GPU-hours 0.41 0.68" in found
    assert "cost - 0.82 EUR" in found
    assert "verification - Verified" in found
    assert "cannot be compared" not in text


def test_json_has_the_same_values(run: Run) -> None:
    code, text, _ = run("diff", "velmora", EARLIER, PRESENT, "-o", "json")
    found = json.loads(text)
    assert code == 0
    assert found["spec"]["training.epochs"] == [2, 3]
    assert found["results"][1]["held-out loss"] == "1.9294"
    assert found["comparable"] is True


def test_losses_on_different_rows_are_not_comparable(run: Run, job: Job) -> None:
    record = job("velmora")["status"]["revisions"][0]
    record["artifacts"]["evaluation"]["rowsDigest"] = "sha256:other"
    assert "cannot be compared with" in run("diff", "velmora", EARLIER, PRESENT)[1]


def test_a_revision_equals_itself(run: Run) -> None:
    code, text, _ = run("diff", "velmora", PRESENT, PRESENT)
    assert code == 0
    assert "Both revisions have the same spec." in text


@pytest.mark.parametrize("content", [None, "{}", "", "\x1b", 7, "[1]"])
def test_a_changed_or_missing_configmap_is_one_line(
    run: Run, objects: Objects, content: Any
) -> None:
    for each in objects[f"{CORE}/configmaps"]:
        each["data"] = {"job.json": content}
    if content is None:
        objects[f"{CORE}/configmaps"].clear()
    code, out, err = run("diff", "velmora", EARLIER, PRESENT)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "ConfigMap" in err


@pytest.mark.parametrize("columns", [40, 120, None])
def test_names_and_values_of_any_form_are_escaped(run: Run, job: Job, columns: int | None) -> None:
    job("velmora")["status"]["revisions"][1]["revision"] = "\x1b[2J"
    assert run("diff", "velmora", EARLIER, "\x1b[2J", columns=columns)[0] == 1, "no ConfigMap"
    job("velmora")["status"]["revisions"][1]["revision"] = PRESENT
    record = job("velmora")["status"]["revisions"][0]
    record["frozen"]["operator"] = json.dumps({"images": {"\x1b[2J": "\x1b[31mred [bold]"}})
    record["artifacts"]["device"] = "\x1b[2J"
    code, text, _ = run("diff", "velmora", EARLIER, PRESENT, columns=columns)
    assert code == 0
    assert "[bold]" in text
    record["frozen"]["operator"] = "["
    assert run("diff", "velmora", EARLIER, PRESENT, columns=columns)[0] == 0
