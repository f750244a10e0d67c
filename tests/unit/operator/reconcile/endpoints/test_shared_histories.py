"""Random histories of jobs that share endpoints: only proved names answer, and good ones stay."""

import random
from typing import Any

import pytest
from tests.fakes.apiserver import Cluster
from tests.support.variants import variants
from tests.unit.operator.reconcile.endpoints import laws_of_sharing as laws
from tests.unit.operator.reconcile.endpoints.sharing import FAULTY_SEED, Team

USUAL, MANY = range(2), range(1000)
"""Histories in ``make test`` and in ``make search``."""
SHARED = {"mode": "shared", "endpointRef": {"name": "chat"}}
EDITS: tuple[dict[str, Any], ...] = (
    *({"training": {"seed": seed}} for seed in (1, FAULTY_SEED, FAULTY_SEED, 3)),
    {"serving": {"mode": "shared", "endpointRef": {"name": "other"}}},
    {"serving": SHARED},
    {"serving": {"mode": None, "endpointRef": None}},
    {"serving": {"servedModelNames": ["a", "support"]}},
    {"serving": {"servedModelNames": None}},
    {"suspend": True},
    {"suspend": False},
)


def step(team: Team) -> None:
    """Let something happen."""
    chance = team.random
    job, gate = chance.choice(team.jobs), chance.choice(list(team.endpoints.values()))
    match chance.randrange(17):
        case 0 | 1:
            team.reconcile(job, chance.choice((None, None, 0, 1, 2)))
        case 2 | 3 | 4:
            for _ in range(chance.randint(1, 3)):
                team.reconcile(job)
                team.work(job)
        case 5 | 6:
            team.plan(gate, chance.choice((None, 0, 1)), chance.choice((None, None, 1, 5, 8)))
        case 7 | 8:
            gate.step(limit=chance.choice((0, 1, 99)))
        case 9:
            team.prepare(gate)
        case 10:
            gate.restart()
        case 11:
            team.settle(chance.randint(1, 5))
        case 12 | 13:
            edit(job, chance.choice(EDITS))
        case 14:
            if chance.random() < 0.15:
                team.lose_claim(gate)
        case 15:
            if job.job is None:
                job.submit()
            elif chance.random() < 0.3:
                team.delete(job)
        case 16:
            team.prune(gate)


def edit(job: Cluster, changes: dict[str, object]) -> None:
    """Edit a job; one of them never uses an endpoint."""
    if job.job is not None and not (job.name == "own" and "serving" in changes):
        job.edit(**changes)


@pytest.mark.parametrize("seed", variants(MANY, kept=USUAL))
def test_jobs_that_share_endpoints_in_random_histories(seed: int) -> None:
    team = Team(random.Random(seed))
    # Most events matter only once something serves.
    team.settle(team.random.choice((0, 9, 9)))
    if team.random.random() < 0.5:
        edit(team.jobs[0], {"training": {"seed": FAULTY_SEED}})
        team.settle(team.random.randint(0, 6))
    for _ in range(20):
        step(team)
    for job in team.existing():
        job.edit(suspend=False)
    team.settle()
    for gate in team.endpoints.values():
        gate.restart()
    team.settle(5)
    for job in team.existing():
        laws.a_good_model_returns(job, team.faulty, team.lost)
        if job.name == "own":
            assert job.status["serving"]["summary"] not in ("-", "down")
    for gate in team.endpoints.values():
        files = gate.files.get(gate.world.claim, set())
        laws.every_folder_of_a_deleted_job_is_removed(gate.world, files, team.existing())
