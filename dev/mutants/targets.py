"""The modules that are mutated, and the tests that must detect the mutants.

The packages need neither torch nor a cluster, so their tests are fast. For a mutant outside of all
functions, the test file of its module runs first; the other tests of its area run only if this file
passes.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from cluster import paths


@dataclasses.dataclass(frozen=True, kw_only=True)
class Area:
    """Packages below ``root``, and the tests of their mutants."""

    root: str
    packages: tuple[str, ...]
    tests: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    """Slow test files that detected no further mutant in samples of several hundred."""


AREAS = (
    Area(
        root="operator",
        packages=(
            "finetune_operator.reconcile",
            "finetune_operator.revisions",
            "finetune_operator.manifests",
            "finetune_operator.objects",
        ),
        tests=(
            "tests/unit/operator/objects",
            "tests/unit/operator/reconcile",
            "tests/unit/operator/revisions",
            "tests/unit/operator/manifests",
        ),
        left_out=("tests/unit/operator/reconcile/test_random_histories.py",),
    ),
    Area(
        root="operator",
        packages=(
            "finetune_operator.controller.apply",
            "finetune_operator.leader_election",
            "finetune_operator.rate_limit",
            "finetune_operator.snapshot.expected",
            "finetune_operator.snapshot.reflector",
            "finetune_operator.snapshot.store",
            "finetune_operator.workqueue",
        ),
        tests=(
            "tests/unit/operator/controller",
            "tests/unit/operator/snapshot",
            "tests/unit/operator/kube",
            "tests/unit/operator/test_leader_election.py",
            "tests/unit/operator/test_rate_limit.py",
            "tests/unit/operator/workqueue",
        ),
    ),
    Area(
        root="crds",
        packages=(
            "finetune_api.defaulting",
            "finetune_api.default_credentials",
            "finetune_api.validation",
            "finetune_api.revision_hash",
            "finetune_api.fitting",
            "finetune_api.layering",
            "finetune_api.rules",
            "finetune_api.markers",
            "finetune_api.quantity",
            "finetune_api.contracts",
        ),
        tests=("tests/unit/api", "tests/unit/operator/revisions"),
    ),
    Area(
        root="trainer",
        packages=("finetune_trainer.estimate", "finetune_cli.axolotl"),
        tests=("tests/unit/trainer", "tests/unit/cli"),
    ),
)


def modules(area: Area) -> dict[str, Path]:
    """Return the modules of an area by dotted name, packages' ``__init__`` left out."""
    root = paths.REPO / area.root
    by_name = {}
    for package in area.packages:
        place = root / Path(*package.split("."))
        files = [place.with_suffix(".py")] if not place.is_dir() else sorted(place.rglob("*.py"))
        for file in files:
            if file.stem != "__init__":
                by_name[".".join(file.relative_to(root).with_suffix("").parts)] = file
    return by_name


def own_tests(area: Area, module: str) -> list[str]:
    """Return the test files that are named after a module."""
    leaf = module.rpartition(".")[2]
    return sorted(
        str(file.relative_to(paths.REPO))
        for folder in area.tests
        for file in (paths.REPO / folder).rglob(f"test_{leaf}*.py")
    )
