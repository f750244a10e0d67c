"""Run a sample of mutants on every core until the time limit."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import os
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path

from cluster import paths
from mutants import mutations, runner, targets
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
    """Return the survivors, and how many mutants were started before ``seconds`` had passed."""
    end = time.monotonic() + seconds
    survivors, count = [], 0
    lanes = len(os.sched_getaffinity(0))
    # A worker forks for each mutant; spawned, it shares no threads and locks with this process.
    with concurrent.futures.ProcessPoolExecutor(
        lanes, mp_context=get_context("spawn"), initializer=runner.preload
    ) as pool:
        waiting = iter(sample)
        running = {pool.submit(_survives, each): each for each in _take(waiting, lanes)}
        while running:
            done, _ = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                planted, count = running.pop(future), count + 1
                if future.result():
                    survivors.append(planted.mutant)
                if time.monotonic() < end:
                    running |= {pool.submit(_survives, each): each for each in _take(waiting, 1)}
            if sys.stderr.isatty():
                print(f"\r{count} of {len(sample)}", end="\r", file=sys.stderr, flush=True)
    return survivors, count


def _take(items: Iterator[Planted], count: int) -> list[Planted]:
    return list(itertools.islice(items, count))


def _survives(planted: Planted) -> bool:
    mutant = planted.mutant
    os.chdir(paths.REPO)
    own = targets.own_tests(planted.area, mutant.module)
    source = mutations.mutated(planted.file.read_text(encoding="utf-8"), mutant.number)
    rest = [*planted.area.tests, *(f"--ignore={file}" for file in planted.area.left_out)]
    groups = [*([own] if own else []), rest]
    return runner.survives(mutant.module, planted.file, source, groups)
