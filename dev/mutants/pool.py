"""Run a sample of mutants on every core until the time limit."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path

from cluster import paths
from mutants import mutations, runner, session, targets
from mutants.mutations import Mutant


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planted:
    """A mutant with its area and its module's file."""

    mutant: Mutant
    area: targets.Area
    file: Path


def candidates(prefix: str = "") -> list[Planted]:
    """Return every mutant of the modules whose dotted name starts with ``prefix``."""
    return [
        Planted(mutant=mutant, area=area, file=file)
        for area in targets.AREAS
        for module, file in targets.modules(area).items()
        if module.startswith(prefix)
        for mutant in mutations.mutants(module, file.read_text(encoding="utf-8"))
    ]


def run(sample: Sequence[Planted], *, seconds: float) -> tuple[list[Mutant], int]:
    """Return the survivors, and how many mutants were run before ``seconds`` had passed.

    Each area has a share of the time, so that a slow one does not keep the others from running.
    """
    start, lanes = time.monotonic(), len(os.sched_getaffinity(0))
    survived: dict[Planted, bool] = {}
    others = [planted for planted in sample if not planted.mutant.function]
    seen = 0
    for area in targets.AREAS:
        part = [planted for planted in sample if planted.area == area and planted.mutant.function]
        seen += len(part)
        if not part:
            continue
        end = start + seconds * seen / len(sample)
        for planted, result in _of_functions(area, part, lanes=lanes, end=end).items():
            if result is None:
                others.append(planted)
            else:
                survived[planted] = result
    survived |= _of_modules(others, lanes=lanes, end=start + seconds)
    return [planted.mutant for planted, result in survived.items() if result], len(survived)


def _of_functions(
    area: targets.Area, part: Sequence[Planted], *, lanes: int, end: float
) -> dict[Planted, bool | None]:
    """Run mutants of function bodies, in a process of their own; results as in ``session.run``."""
    faults = [
        session.Fault(
            file=str(planted.file), function=planted.mutant.function, source=_mutated(planted)
        )
        for planted in part
    ]
    tests = [*area.tests, *(f"--ignore={file}" for file in area.left_out)]
    with concurrent.futures.ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=os.chdir, initargs=(paths.REPO,)
    ) as pool:
        results = pool.submit(session.run, faults, tests, lanes=lanes, end=end).result()
    return {part[number]: result for number, result in results.items()}


def _of_modules(sample: Sequence[Planted], *, lanes: int, end: float) -> dict[Planted, bool]:
    """Run mutants of which the module must be imported again; return whether they survived."""
    survived: dict[Planted, bool] = {}
    # A worker forks for each mutant; spawned, it shares no threads and locks with this process.
    with concurrent.futures.ProcessPoolExecutor(
        lanes, mp_context=get_context("spawn"), initializer=runner.preload
    ) as pool:
        waiting = iter(sample)
        running = {pool.submit(_survives, planted): planted for planted in _take(waiting, lanes)}
        while running:
            done, _ = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                survived[running.pop(future)] = future.result()
                if time.monotonic() < end:
                    running |= {
                        pool.submit(_survives, planted): planted for planted in _take(waiting, 1)
                    }
    return survived


def _take(items: Iterator[Planted], count: int) -> list[Planted]:
    return list(itertools.islice(items, count))


def _survives(planted: Planted) -> bool:
    os.chdir(paths.REPO)
    module = planted.mutant.module
    own = targets.own_tests(planted.area, module)
    rest = [*planted.area.tests, *(f"--ignore={file}" for file in planted.area.left_out)]
    groups = [*([own] if own else []), rest]
    return runner.survives(module, planted.file, _mutated(planted), groups)


def _mutated(planted: Planted) -> str:
    return mutations.mutated(planted.file.read_text(encoding="utf-8"), planted.mutant.number)
