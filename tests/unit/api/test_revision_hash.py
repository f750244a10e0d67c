"""Released digests of revisions and builds: a changed digest would retrain a fleet.

Each file in ``golden/`` holds the built-in values of a release, as its revisions stored them, and
the digests that it computed for some jobs. Released files never change. A release with other
built-in values gets a new file: ``python -m tests.unit.api.test_revision_hash v0.2.0`` writes it.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.leaves import ALPACA, merged

from finetune_api.defaulting import Resolved, builtin_defaults, resolve
from finetune_api.revision_hash import digest

GOLDEN = Path(__file__).parent / "golden"
JOBS: dict[str, dict[str, Any]] = {
    "least": ALPACA,
    "text-from-configmap": {
        "model": {"source": "hf://org/model", "revision": "v2"},
        "dataset": {"source": "configmap://rows/rows.jsonl", "format": "text"},
    },
    "renamed-columns": merged(
        ALPACA, {"dataset": {"columns": {"output": "answer"}, "validationFraction": 0}}
    ),
    "article": merged(
        ALPACA,
        {
            "dataset": {"promptTemplate": "alpaca", "tokenSecretRef": {"name": "hf-token"}},
            "training": {
                "sequenceLength": 8192,
                "packing": "always",
                "lora": {"dropout": 0.05},
                "advanced": {"microBatchSize": 2, "attnImplementation": "flash_attention_2"},
            },
            "merge": {"dtype": "float16", "base": "original"},
            "storage": {"size": "120Gi"},
            "placement": {
                "nodeSelector": {"pool": "tuning"},
                "tolerations": [{"key": "pool", "operator": "Exists"}],
            },
        },
    ),
    "steps": merged(ALPACA, {"training": {"maxSteps": 60, "learningRate": 0.00001}}),
    "again": merged(ALPACA, {"rerun": "2026-01-01", "runPolicy": {"backoffLimit": 0}}),
}


def _digests(resolved: Resolved) -> dict[str, str]:
    return {
        "digest": resolved.digest,
        "buildDigest": resolved.build_digest,
        "retryKey": resolved.retry_key,
    }


def _write(release: str) -> None:
    defaults = builtin_defaults()
    jobs = {
        name: {"spec": spec, **_digests(resolve(spec, defaults))} for name, spec in JOBS.items()
    }
    text = json.dumps({"defaults": defaults, "jobs": jobs}, indent=2)
    (GOLDEN / f"{release}.json").write_text(text + "\n")


RELEASES = {path.stem: json.loads(path.read_text()) for path in GOLDEN.glob("v*.json")}
NEWEST = max(RELEASES, key=lambda name: [int(part) for part in name[1:].split(".")])


@pytest.mark.parametrize(
    ("release", "job"),
    [(release, job) for release, found in RELEASES.items() for job in found["jobs"]],
)
def test_released_digests_do_not_change(release: str, job: str) -> None:
    defaults, found = RELEASES[release]["defaults"], RELEASES[release]["jobs"][job]
    expected = {key: value for key, value in found.items() if key != "spec"}
    assert _digests(resolve(found["spec"], defaults)) == expected


def test_built_in_values_equal_those_of_the_newest_release() -> None:
    """Changing one is a decision: it applies to new revisions only, and needs a new golden file."""
    assert builtin_defaults() == RELEASES[NEWEST]["defaults"]


@pytest.mark.parametrize("job", JOBS)
def test_a_field_that_lost_its_built_in_value_is_hashed_as_before(job: str) -> None:
    """Revisions that were started with gradientCheckpointing: true have it in their defaults."""
    changed = {"training": {"advanced": {"gradientCheckpointing": True}}}
    earlier = resolve(JOBS[job], merged(builtin_defaults(), changed))
    assert earlier.spec.training.advanced.gradient_checkpointing is True
    assert _digests(earlier) == _digests(resolve(JOBS[job], builtin_defaults()))
    assert _digests(earlier) == _digests(resolve(merged(JOBS[job], changed), builtin_defaults()))


def test_golden_jobs_have_different_digests() -> None:
    jobs = RELEASES[NEWEST]["jobs"]
    assert set(jobs) == set(JOBS)
    assert len({job["digest"] for job in jobs.values()}) == len(jobs)
    assert len({job["buildDigest"] for job in jobs.values()}) == len(jobs)


def test_digest_ignores_the_order_of_keys() -> None:
    assert digest({"b": 1, "a": [1.0, "é"]}) == digest({"a": [1.0, "é"], "b": 1})
    assert digest([1, 2]) != digest([2, 1])
    assert digest({"a": 1.0}) != digest({"a": 1})
    assert re.fullmatch("[0-9a-f]{64}", digest({}))


def test_names_are_the_beginning_of_digests() -> None:
    resolved = resolve(ALPACA, builtin_defaults())
    assert resolved.revision == resolved.digest[:8]
    assert resolved.build == resolved.build_digest[:8]


def test_build_depends_on_its_revision() -> None:
    """The same merge settings with other weights are another build."""
    defaults = builtin_defaults()
    first = resolve(ALPACA, defaults)
    second = resolve(merged(ALPACA, {"rerun": "again"}), defaults)
    assert first.spec.merge == second.spec.merge
    assert first.build != second.build
    assert first.build != first.revision


if __name__ == "__main__":
    _write(sys.argv[1])
