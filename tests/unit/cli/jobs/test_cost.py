"""``ftj cost``: GPU-hours and cost by revision, by job and by month."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.cli.jobs.conftest import Objects, Run

from clidocs.example_jobs import EARLIER, PRESENT
from clidocs.example_objects import JOBS, USAGES
from finetune_cli.cluster import revisions
from finetune_cli.cluster.job import Job as JobFacts

Job = Callable[[str], dict[str, Any]]


def test_the_cost_of_a_job_is_that_of_its_revisions(run: Run) -> None:
    code, text, err = run("cost", "velmora")
    assert (code, err) == (0, "")
    lines = [line.split() for line in text.splitlines()]
    assert [EARLIER, "0.41", "-"] in lines
    assert [PRESENT, "0.68", "0.82", "EUR"] in lines, "as charged, with the pull of the image"
    assert ["all", "1.09", "0.82", "EUR"] in lines
    assert f"Revision {PRESENT}: 0.41-1.94 EUR expected." in text
    found = json.loads(run("cost", "velmora", "-o", "json")[1])
    assert (found["gpuHours"], found["cost"]) == ("1.09", {"EUR": "0.82"})
    assert found["revisions"][0] == {"revision": EARLIER, "gpuHours": "0.41", "cost": {}}


@pytest.mark.parametrize("columns", [40, 120, None])
def test_the_cost_of_a_namespace_has_its_jobs_and_months(run: Run, columns: int | None) -> None:
    code, text, _ = run("cost", columns=columns)
    assert code == 0
    lines = [line.split() for line in text.splitlines()]
    assert ["velmora", "1.09", "0.82", "EUR"] in lines
    assert ["support", "-", "-"] in lines
    assert ["2026-03", "1.21", "1.66", "3.44", "EUR"] in lines
    found = json.loads(run("cost", "-o", "json")[1])
    assert [each["name"] for each in found["jobs"]] == ["billing", "support", "velmora"]
    assert found["usage"][0]["serving"] == "1.66"


def test_amounts_of_several_currencies_are_not_added(run: Run, job: Job) -> None:
    record = job("velmora")["status"]["revisions"][0]
    price = {"perGpuHour": "2", "currency": "USD"}
    record["frozen"]["operator"] = json.dumps({"profile": {"price": price}})
    assert "0.82 EUR + 0.83 USD" in run("cost", "velmora")[1]


@pytest.mark.parametrize("price", ["NaN", "Infinity", "cheap"])
def test_a_price_that_is_no_number_gives_no_cost(price: str, run: Run, job: Job) -> None:
    record = job("velmora")["status"]["revisions"][-1]
    written = {"profile": {"price": {"perGpuHour": price, "currency": "EUR"}}}
    record["frozen"]["operator"] = json.dumps(written)
    code, text, err = run("cost", "velmora")
    assert (code, err) == (0, "")
    assert [PRESENT, "0.68", "-"] in [line.split() for line in text.splitlines()]


def test_a_cluster_without_usage_and_a_namespace_without_jobs_say_so(
    run: Run, objects: Objects
) -> None:
    del objects[USAGES]
    objects[JOBS].clear()
    code, text, _ = run("cost")
    assert code == 0
    assert "Namespace team-a has no FineTuneJob." in text
    assert "The cluster has no FineTuneUsage API" in text


def test_a_job_without_a_revision_has_no_cost(run: Run, job: Job) -> None:
    del job("velmora")["status"]
    assert "has not started a revision yet" in run("cost", "velmora")[1]


@pytest.mark.parametrize("price", [None, "x", {"perGpuHour": "\x1b"}, {"perGpuHour": []}, []])
def test_a_price_of_another_form_is_unknown(run: Run, job: Job, price: Any) -> None:
    record = job("velmora")["status"]["revisions"][-1]
    record["frozen"]["operator"] = json.dumps({"profile": {"price": price}})
    found = revisions.spent(JobFacts(object=job("velmora")), record)
    assert (found.amount, found.text) == (None, None)
