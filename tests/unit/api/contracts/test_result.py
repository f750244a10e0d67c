"""The termination message: any result fits into 4,096 bytes and can be parsed again."""

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from finetune_api.base import MAX_NUMBER
from finetune_api.contracts.result import (
    LIMIT,
    MAX_TARGETS,
    PrepareArtifacts,
    PublishArtifacts,
    Result,
)
from finetune_api.v1alpha1.data.statistics import DatasetRows
from finetune_api.v1alpha1.status.artifacts import TrainArtifacts

TEXT = st.text(max_size=20_000) | st.text(alphabet='\x00\x1f"\\😀é', max_size=20_000)
NUMBER = st.none() | st.floats()
WHOLE = st.integers(-MAX_NUMBER, MAX_NUMBER)


@given(
    reason=TEXT,
    message=TEXT,
    loss=NUMBER,
    seconds=NUMBER,
    step=st.none() | st.integers(0, MAX_NUMBER),
    artifacts=st.builds(
        TrainArtifacts, adapter=TEXT, device=TEXT, attention=TEXT, reference_seconds=WHOLE
    ),
    warnings=st.lists(TEXT, max_size=40),
)
@example("R" * 9000, "", None, None, None, None, [])
@example("VolumeFull", "\udcff.jsonl: no space", math.nan, math.inf, 1, None, ["\udcff"])
def test_any_result_fits_the_limit_and_can_be_parsed(
    reason: str,
    message: str,
    loss: float | None,
    seconds: float | None,
    step: int | None,
    artifacts: TrainArtifacts | None,
    warnings: list[str],
) -> None:
    result = Result(
        stage="train",
        outcome="failed",
        reason=reason,
        message=message,
        loss=loss,
        gpu_seconds=seconds,
        global_step=step,
        artifacts=artifacts,
        warnings=warnings,
    )
    text = result.to_message()
    assert len(text.encode()) <= LIMIT
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    read = Result.from_message(text)
    assert read is not None
    assert (read.stage, read.outcome, read.global_step) == ("train", "failed", step)
    assert read.reason == reason[:64]


def test_result_within_the_limit_is_unchanged() -> None:
    result = Result(
        stage="prepare",
        outcome="completed",
        reason="Completed",
        message="1,024 rows",
        artifacts=PrepareArtifacts(rows=1024, dataset_digest="sha256:" + "a" * 64),
        warnings=["3 rows are longer than sequenceLength"],
    )
    assert Result.from_message(result.to_message()) == result


def test_digests_are_kept_before_warnings() -> None:
    """The operator does not accept the next stage without them."""
    artifacts = TrainArtifacts(adapter="sha256:" + "a" * 64, adapter_manifest="b" * 64)
    result = Result(
        stage="train",
        outcome="completed",
        reason="Completed",
        message="m" * 5000,
        artifacts=artifacts,
        warnings=["w" * 300] * 20,
    )
    read = Result.from_message(result.to_message())
    assert read is not None
    assert read.artifacts == artifacts
    assert read.message.startswith("m" * 200)


def test_first_warnings_are_kept() -> None:
    warnings = [f"{number} {'w' * 300}" for number in range(20)]
    result = Result(stage="prepare", outcome="completed", reason="Completed", warnings=warnings)
    read = Result.from_message(result.to_message())
    assert read is not None
    assert 5 < len(read.warnings) < 20
    assert read.warnings == warnings[: len(read.warnings)]


@pytest.mark.parametrize(
    "text",
    [
        *("", "Traceback (most recent call last):", "{}", "[]", "7", '{"stage": "train"'),
        '{"stage": "eat"}',
        '{"stage": "train", "outcome": "failed", "reason": "R", "artifacts": ["adapter"]}',
        "[" * LIMIT,
        f'{{"artifacts": {"[" * 2000}{"]" * 2000}}}',
    ],
)
def test_other_text_is_not_a_result(text: str) -> None:
    assert Result.from_message(text) is None


def test_result_of_a_newer_trainer_can_be_parsed() -> None:
    text = '{"stage": "train", "outcome": "completed", "reason": "Completed", "carbon": 3}'
    assert Result.from_message(text) is not None


@pytest.mark.parametrize(
    ("length", "message"), [(200, "m" * 200), (201, "m" * 150 + "…"), (400, "m" * 169 + "…")]
)
def test_a_message_of_200_characters_is_kept_before_artifacts(length: int, message: str) -> None:
    result = Result(
        stage="train",
        outcome="failed",
        reason="Failed",
        message="m" * length,
        artifacts=TrainArtifacts(device="a" * LIMIT),
    )
    read = Result.from_message(result.to_message())
    assert read is not None
    assert (read.message, read.artifacts) == (message, TrainArtifacts())


def prepared(result: Result) -> PrepareArtifacts:
    assert isinstance(result.artifacts, PrepareArtifacts)
    return result.artifacts


def reported(stage: str, artifacts: dict[str, Any]) -> Result:
    """Return the result in a message with any artifacts."""
    values = {"stage": stage, "outcome": "completed", "reason": "Completed"}
    result = Result.from_message(json.dumps({**values, "artifacts": artifacts}))
    assert result is not None
    return result


def _prepared(datasets: int, *, file_name: str) -> Result:
    """Return a result whose records of datasets are as long as they can be."""
    paths = [f"datasets[{at:024}]" for at in range(datasets)]
    formats = dict.fromkeys(("format", "requested", "detected"), "prompt-completion")
    found = {"config": "c" * 30, "split": "train_sft", "fileCount": 1000, "files": [file_name] * 10}
    return Result(
        stage="prepare",
        outcome="completed",
        reason="Completed",
        message="base and dataset are prepared",
        artifacts=PrepareArtifacts.model_validate(
            {
                **dict.fromkeys(("baseCommit", "baseManifest", "datasetManifest"), "a" * 64),
                "formats": [{"dataset": path, **formats} for path in paths],
                "sources": [{"dataset": path, **found} for path in paths],
                "datasets": [
                    {"name": path[9:-1], "rows": 100_000, "validationRows": 0} for path in paths
                ],
            }
        ),
        warnings=["the chat template writes a date into every prompt"] * 3,
    )


def test_file_names_are_dropped_before_warnings() -> None:
    read = Result.from_message(_prepared(2, file_name="data/" + "n" * 200).to_message())
    assert read is not None
    assert len(read.warnings) == 3
    sources = prepared(read).sources or []
    kept = [len(each.files) for each in sources]
    assert 0 < sum(kept) < 20
    assert max(kept) - min(kept) <= 1
    assert [each.file_count for each in sources] == [1000, 1000]


@pytest.mark.parametrize("datasets", [16, 17])
def test_records_of_many_datasets_are_dropped_before_digests(datasets: int) -> None:
    result = _prepared(datasets, file_name="data/train.jsonl")
    read = Result.from_message(result.to_message())
    assert read is not None
    assert read.vouches
    formats = prepared(result).formats
    assert formats
    assert prepared(read).formats == formats
    many = prepared(result).model_copy(update={"formats": formats * 3})
    read = Result.from_message(result.model_copy(update={"artifacts": many}).to_message())
    assert read is not None
    assert read.vouches


def test_figures_of_datasets_are_dropped_before_other_artifacts() -> None:
    result = Result(
        stage="prepare",
        outcome="completed",
        reason="Completed",
        artifacts=PrepareArtifacts(
            base_commit="b",
            datasets=[DatasetRows(name="d", rows=1, validation_rows=0)] * LIMIT,
        ),
    )
    read = Result.from_message(result.to_message())
    assert read is not None
    assert read.artifacts == PrepareArtifacts(base_commit="b")


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        ({"rows": MAX_NUMBER}, True),
        ({"rows": -MAX_NUMBER}, True),
        ({"rows": MAX_NUMBER + 1}, False),
        ({"rows": -MAX_NUMBER - 1}, False),
        ({"rows": str(MAX_NUMBER + 1)}, False),
        ({"sources": [{"dataset": "d", "split": "s", "fileCount": MAX_NUMBER + 1}]}, False),
        ({"novel": MAX_NUMBER + 1}, True),
        ({"rows": "text"}, True),
        ({"rows": None}, True),
    ],
)
def test_numbers_that_a_status_cannot_have_are_not_accepted(value: Any, accepted: bool) -> None:
    text = json.dumps(
        {
            "stage": "prepare",
            "outcome": "failed",
            "reason": "Failed",
            "artifacts": value,
        }
    )
    assert (Result.from_message(text) is not None) is accepted


def test_a_text_of_exactly_the_limit_is_a_result() -> None:
    values = {"stage": "train", "outcome": "failed", "reason": "Failed", "message": ""}
    text = json.dumps(values | {"message": "m" * (LIMIT - len(json.dumps(values)))})
    assert len(text) == LIMIT
    assert Result.from_message(text) is not None
    assert Result.from_message(f"{text} ") is None


@pytest.mark.parametrize(
    ("stage", "artifacts", "vouches"),
    [
        ("prepare", {"baseManifest": "a" * 64, "datasetManifest": "0" * 64}, True),
        ("prepare", {"baseManifest": "a" * 64}, False),
        ("train", {"adapterManifest": "a" * 64}, True),
        ("train", {"adapterManifest": "A" * 64}, False),
        ("train", {"adapterManifest": "a" * 63}, False),
        ("train", {"adapterManifest": "a" * 65}, False),
        ("train", {"adapterManifest": 7}, False),
        ("merge", {"mergedManifest": "a" * 64}, True),
        ("merge", {}, False),
        ("verify", {}, True),
    ],
)
def test_a_stage_vouches_for_the_manifests_that_it_published(
    stage: str, artifacts: dict[str, Any], vouches: bool
) -> None:
    assert reported(stage, artifacts).vouches is vouches


@pytest.mark.parametrize(
    ("stage", "own"),
    [
        ("prepare", {"baseCommit", "rows", "card"}),
        ("train", {"adapter", "referenceManifest"}),
        ("merge", {"merged", "mergedManifest"}),
        ("verify", set()),
    ],
)
def test_a_stage_reports_its_own_artifacts_only(stage: str, own: set[str]) -> None:
    texts = ("baseCommit", "card", "adapter", "referenceManifest", "merged", "mergedManifest")
    artifacts = dict.fromkeys(texts, "a" * 64) | {"rows": 7, "novel": {"version": 2}}
    found = reported(stage, artifacts).artifacts
    assert (set() if found is None else found.model_dump(exclude_none=True).keys()) == own


@pytest.mark.parametrize(
    ("stage", "unknown"),
    [
        ("prepare", {"rows": "many"}),
        ("prepare", {"formats": [{"dataset": "dataset", "format": "csv"}], "rows": [1]}),
        ("prepare", {"base_commit": "a name in Python", "baseCommit": 5}),
        ("train", {"adapter": 5, "evaluation": {"rows": 3}}),
        ("merge", {"merged": ["x"], "mergedManifest": "A" * 64}),
    ],
)
def test_artifacts_of_an_unknown_form_are_left_out(stage: str, unknown: dict[str, Any]) -> None:
    known = {"prepare": "chatTemplate", "train": "device", "merge": "mergedDtype"}[stage]
    found = reported(stage, {known: "known", **unknown}).artifacts
    assert found is not None
    assert found.model_dump(exclude_none=True) == {known: "known"}


def test_texts_in_nested_artifacts_contain_no_control_characters() -> None:
    record = {"dataset": "a\x1b[2Jb", "split": "train", "fileCount": 3, "novel": 1}
    found = prepared(reported("prepare", {"sources": [record]})).sources
    assert found is not None
    (source,) = found
    assert source.dataset.isprintable()
    assert source.file_count == 3


def test_errors_of_targets_are_shortened_before_a_target_is_left_out() -> None:
    targets = [
        {
            "name": f"target-{number}",
            "reference": "r" * 255,
            "digest": f"sha256:{number:064x}",
            "error": {"reason": "TargetRejected", "message": f"{number}" * 2000},
        }
        for number in range(MAX_TARGETS)
    ]
    result = Result(
        stage="publish", outcome="failed", reason="PublishFailed", artifacts={"targets": targets}
    )
    message = result.to_message()
    assert len(message.encode()) <= LIMIT
    read = Result.from_message(message)
    assert read is not None
    assert isinstance(read.artifacts, PublishArtifacts)
    assert [each.digest for each in read.artifacts.targets] == [each["digest"] for each in targets]
    assert all(each.error and len(each.error.message) > 100 for each in read.artifacts.targets)


def test_lists_of_files_are_dropped_after_long_texts_the_longest_first() -> None:
    lists = {str(number) * 64: str(number) * (700 + number) for number in range(1, 6)}
    error = {"reason": "TargetRejected", "message": "m" * 1000}
    targets: list[dict[str, Any]] = [
        {"name": f"t{number}", "digest": f"sha256:{'a' * 64}", "reference": "r" * 100}
        for number in range(4)
    ]
    targets.append({"name": "failed", "error": error})
    result = Result(
        stage="publish",
        outcome="failed",
        reason="PublishFailed",
        artifacts={"targets": targets, "files": lists},
    )
    read = Result.from_message(result.to_message())
    assert read is not None
    assert isinstance(read.artifacts, PublishArtifacts)
    assert read.artifacts.files is not None
    assert [*read.artifacts.files] == ["1" * 64, "2" * 64, "3" * 64, "4" * 64]
    assert not any(each.reference for each in read.artifacts.targets)
    assert [each.digest for each in read.artifacts.targets[:4]] == [f"sha256:{'a' * 64}"] * 4


@pytest.mark.parametrize("name", ["a b", "\x00", "x" * 65, ""])
def test_versions_under_names_of_no_package_are_left_out(name: str) -> None:
    """A compromised pod could write any text into the status."""
    document = {"stage": "train", "outcome": "completed", "reason": "Completed"}
    for names in ([name], ["torch", name]):
        artifacts = {"device": "cpu", "versions": dict.fromkeys(names, "1")}
        result = Result.from_message(json.dumps({**document, "artifacts": artifacts}))
        assert result is not None
        assert isinstance(result.artifacts, TrainArtifacts)
        assert (result.artifacts.device, result.artifacts.versions) == ("cpu", None)
