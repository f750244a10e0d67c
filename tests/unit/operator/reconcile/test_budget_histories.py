"""Random histories of jobs and an endpoint that share budgets.

Each second is charged once, and that of a training was reserved.
"""

import random

import pytest
from tests.fakes.apiserver import Thing
from tests.support.variants import variants
from tests.unit.operator.reconcile.spending import Job, World, run

USUAL, MANY = (0, 1, 2, 4), range(2000)
"""Histories in ``make test`` and in ``make search``."""


def step_endpoint(world: World) -> None:
    """Let something happen to the FineTuneEndpoint."""
    chance = world.random
    match chance.randrange(8):
        case 0 | 1:
            world.reconcile_endpoint(chance.choice((None, 0, 1, 6)))
        case 2 | 3 | 4 | 5:
            world.reconcile_endpoint()
            world.work_endpoint()
            world.wait(seconds=chance.choice((1, 70, 1800)))
            world.work_endpoint(reports=chance.random() < 0.7)
        case 6:
            world.shared.lose()
        case 7:
            if not world.shared.exists:
                world.shared.create()
            elif chance.random() < 0.3:
                world.shared.delete()


def step(world: World, job: Job) -> None:
    """Let something happen to a job, or to all of them."""
    chance = world.random
    if chance.random() < 0.15:
        step_endpoint(world)
        return
    if world.profile is None and chance.random() < 0.3:
        world.offer("2.00")
    if job.job is None:
        if chance.random() < 0.5:
            job.submit()
        return
    match chance.randrange(24):
        case 0 | 1 | 2 | 3:
            world.reconcile(job, chance.choice((None, 0, 1, 2)))
        case 4 | 5 | 6 | 7 | 8 | 9 | 10 | 11:
            for _ in range(chance.randint(1, 3)):
                world.reconcile(job)
                world.work(job)
                if chance.random() < 0.7:
                    world.wait(seconds=chance.choice((1, 70, 1800)))
                    world.finish(job)
        case 12 | 13:
            world.wait(seconds=chance.choice((1, 70, 1800, 7000)))
        case 14:
            world.wait(days=chance.randint(1, 5))
        case 15 | 16:
            world.settle()
        case 17:
            world.api.lose_reply = True
        case 18:
            world.fail_over()
        case 19:
            world.lose(job)
        case 20:
            world.delete(job)
        case 21:
            edits: list[Thing] = [{"serving": {"replicas": count}} for count in (0, 1)]
            edits += [{"rerun": "a"}, {"suspend": True}, {"suspend": False}, {"suspend": False}]
            job.edit(**chance.choice(edits))
        case 22:
            policy = {
                "training": chance.choice(("Finish", "Checkpoint")),
                "serving": chance.choice(("Keep", "ScaleToZero")),
            }
            running, cost = chance.randint(1, 4), chance.choice(("12.00", "300.00"))
            gpus = chance.choice((0, 1, 1, 2))
            world.budget(chance.choice((0, 6, 9, 12, 15)), cost, running, gpus, onExhausted=policy)
        case 23:
            world.offer(chance.choice((None, "2.00", "3.00")))


def step_serving(world: World, job: Job) -> None:
    """Let something happen to a job that serves, and reconcile it."""
    chance = world.random
    match chance.randrange(8):
        case 0 | 1 | 2:
            world.wait(seconds=chance.choice((70, 1800, 7000)))
        case 3 | 4:
            job.annotate(wake=job.stamp())
        case 5:
            job.last_request = job.now
        case 6:
            policy = {"serving": chance.choice(("Keep", "ScaleToZero"))}
            limits = {"maxGpus": chance.choice((1, 2, 4))} | chance.choice(({}, {"gpuHours": 60}))
            world.budget(9, "300.00", serving=limits, onExhausted=policy)
        case 7:
            world.fail_over()
    for _ in range(2):
        world.reconcile(job)
        world.work(job)


@pytest.mark.parametrize("seed", variants(MANY, kept=USUAL))
def test_spending_in_random_histories(seed: int) -> None:
    world = World(random.Random(seed))
    for _ in range(120):
        step(world, world.random.choice(world.jobs))
    # In the end, every job trains, and all serve: the budgets are larger than each of them.
    world.api.lose_reply = False
    if not world.shared.exists:
        world.shared.create()
    world.budget(9, "300.00")
    world.offer("2.00")
    for _ in range(12):
        world.wait(days=7)
        for job in world.jobs:
            if job.job is None:
                job.submit()
            job.edit(suspend=False, serving={"replicas": 1})
            job.annotate(wake=job.stamp())
            for _ in range(4):
                world.reconcile(job)
                world.work(job)
                world.finish(job)
        for _ in range(3):
            world.reconcile_endpoint()
            world.work_endpoint()
        world.settle()
    assert [pod["status"]["phase"] for pod in world.shared.serving()] == ["Running"]
    ended = {job.name: job.reason for job in world.jobs}
    assert not {*ended.values()} - {"Completed", "Serving", "RetriesExhausted"}, ended
    # Then endpoints become idle, and are woken.
    world.budget(9, "300.00", serving={"maxGpus": 4})
    for _ in range(30):
        step_serving(world, world.random.choice(world.jobs[1:]))
    world.settle()
    before = world.api.usages()
    run(world.operator.recorder.settle())
    assert world.api.usages() == before, "a repeated settlement writes nothing"
