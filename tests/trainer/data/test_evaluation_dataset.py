"""A separate evaluation dataset: preparation, checks, and use in training and evaluation."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.trainer import tiny
from tests.support.trainer.hub import Hub
from tests.support.trainer.workshop import Ended, Workshop
from tests.trainer.conftest import MakeWorkshop

from finetune_api.contracts.job_config import JobConfig
from finetune_api.contracts.reference import Reference
from finetune_api.v1alpha1.data.statistics import Data
from finetune_api.v1alpha1.evaluation import HeldOutLosses
from finetune_operator.reconcile.serving.evaluation_gate import judge
from finetune_trainer.checkpointing import manifest
from finetune_trainer.data.chat_rendering import Renderer
from finetune_trainer.data.dataset import Prepared, prepare
from finetune_trainer.data.reference_sample import LENGTH
from finetune_trainer.data.rows import readers
from finetune_trainer.data.token_store import HELD_OUT, TRAIN, Tokens
from finetune_trainer.data.tokenize_rows import RowTokenizer
from finetune_trainer.evaluation.loss_comparison import evaluate

QUESTIONS = 40
SHARED = 3
OWN: dict[str, Any] = {
    "source": "hf://demo/questions",
    "format": "messages",
    "columns": {"messages": "chat"},
    "split": "test",
}


def chat(row: dict[str, str]) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": row["instruction"]},
        {"role": "assistant", "content": row["output"]},
    ]


# The first rows are also training rows.
ROWS = [chat(row) for row in [*tiny.rows(SHARED), *tiny.rows(100)[100 - QUESTIONS + SHARED :]]]


@pytest.fixture(scope="module")
def questions(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    tiny.dataset(folder, [{"chat": row} for row in ROWS], "test.jsonl")
    tiny.dataset(folder, [{"chat": "never read"}], "train.jsonl")
    hub.add("dataset", "demo/questions", folder)
    return folder


@pytest.fixture(scope="module")
def evaluated(make: MakeWorkshop, questions: Path) -> Workshop:
    """A job that was trained and evaluated with separate datasets; tests must not change it."""
    workshop = make(evaluation={"dataset": OWN}, training={"advanced": {"evalSteps": 3}})
    workshop.prepare_and_train()
    return workshop


def read(work: Path, name: str) -> set[str]:
    tokens = Tokens.load(work / "dataset" / name)
    borders = zip(tokens.rows[:-1], tokens.rows[1:], strict=True)
    tokenizer = tiny.tokenizer()
    return {str(tokenizer.decode(tokens.input_ids[start:end])) for start, end in borders}


def rendered(rows: list[list[dict[str, str]]]) -> set[str]:
    return {str(tiny.tokenizer().apply_chat_template(row, tokenize=False)) for row in rows}


def test_evaluation_rows_are_tokenized_and_all_dataset_rows_are_trained_on(
    evaluated: Workshop,
) -> None:
    assert read(evaluated.work, HELD_OUT) == rendered(ROWS)
    assert read(evaluated.work, TRAIN) == rendered([chat(row) for row in tiny.rows(24)])
    facts = manifest.read(evaluated.work / "dataset").facts
    assert (facts["rows"], facts["validationRows"]) == (24, QUESTIONS)


def test_counts_of_the_evaluation_dataset_are_in_result_and_manifest(
    evaluated: Workshop, hub: Hub
) -> None:
    prepare_result = evaluated.succeed("prepare").result
    counted = Data.model_validate(prepare_result["artifacts"], extra="ignore").evaluation_dataset
    assert counted is not None
    assert (counted.rows, counted.trained_rows, counted.duplicate_rows) == (QUESTIONS, SHARED, 0)
    assert counted.dropped_rows == counted.truncated_rows == 0
    assert counted.tokens is not None
    assert counted.evaluated_tokens is not None
    assert 0 < counted.evaluated_tokens < counted.tokens
    said = f"{SHARED} of {QUESTIONS} rows of evaluation.dataset are also training rows"
    assert any(said in each for each in prepare_result["warnings"])
    fact = manifest.read(evaluated.work / "dataset").facts["origins"]["evaluation.dataset"]
    assert fact["commit"] == hub.repos["datasets/demo/questions"].commit()
    assert fact["digest"].startswith("sha256:")
    card = (evaluated.work / "adapter" / "README.md").read_text()
    assert f"| evaluation dataset | `{OWN['source']}` |" in card
    assert fact["commit"] in card
    assert "evaluation rows" in card


def test_reference_and_evaluation_gate_use_the_evaluation_dataset(evaluated: Workshop) -> None:
    text = (evaluated.work / "reference" / "reference.json").read_text()
    found = Reference.model_validate_json(text)
    assert found.held_out
    asked = {row[0]["content"] for row in ROWS}
    assert {row.messages[0]["content"] for row in found.rows if row.messages} == asked
    trained = evaluated.succeed("train").result
    numbers = HeldOutLosses.model_validate(trained["artifacts"]["evaluation"])
    assert numbers == evaluate(found)
    gate = judge(numbers, "dequantized")
    assert gate.outcome in ("Passed", "Failed")
    assert f", {QUESTIONS} rows, " in gate.message
    # The last evaluation during training used the same adapter, base and rows.
    assert trained["evalLoss"] == pytest.approx(float(numbers.dequantized.loss), abs=0.02)
    assert [step for step, _ in manifest.read(evaluated.work / "adapter").facts["evaluations"]] == [
        3,
        6,
    ]


def prepared(rows: list[Any], own: list[Any], **changes: Any) -> Prepared:
    """Tokenize training rows and evaluation rows like the prepare stage."""
    evaluation = {"dataset": {"source": "hf://e/f", "format": "alpaca"}}
    job = JobConfig.model_validate(
        tiny.job("hf://a/b", "hf://c/d", evaluation=evaluation, **changes)
    )
    renderer = Renderer(
        tiny.tokenizer(), template=tiny.CHAT_TEMPLATE, train_on="responses", stops=[0]
    )
    read = RowTokenizer(job, renderer, template="chat")
    asked = RowTokenizer(job, renderer, template="chat", kind="evaluation.dataset")
    for row_tokenizer, values in ((read, rows), (asked, own)):
        for at, each in enumerate(values, 1):
            row_tokenizer.add(readers.Row(file="rows.jsonl", number=at, values=each))
        row_tokenizer.check(vocabulary=320)
    return prepare(job, read, asked)


def test_sample_of_the_evaluation_dataset_is_independent_of_the_recipe() -> None:
    """The sample is the same for two revisions, so their builds are compared on the same rows."""
    own = tiny.rows(600)[200:]
    one = prepared(tiny.rows(20), own).sample
    other = prepared(tiny.rows(40), own, training={"seed": 7, "epochs": 1, "maxSteps": None})
    assert one == other.sample
    assert 32 <= len(one) < len(own)


def test_duplicates_of_the_evaluation_dataset_are_counted_and_kept() -> None:
    own = [*tiny.rows(30)[20:], *tiny.rows(22)[20:]]
    found = prepared(tiny.rows(24), own, dataset={"duplicates": "drop"})
    assert found.counts.evaluation_dataset is not None
    assert (
        found.counts.evaluation_dataset.rows,
        found.counts.evaluation_dataset.duplicate_rows,
    ) == (12, 2)
    assert found.counts.evaluation_dataset.trained_rows == 6, "four rows, two of them twice"
    assert found.held_out.count == 12
    assert len(found.sample) == 10, "each is scored once"


def test_estimate_uses_the_longest_row_of_both_datasets() -> None:
    long = {"instruction": "a", "output": "b" * 90}
    assert prepared(tiny.rows(20), [*tiny.rows(20), long]).longest == 112 < LENGTH
    found = prepared(tiny.rows(20), [*tiny.rows(20), {"instruction": "a", "output": "b" * 200}])
    assert found.counts.evaluation_dataset is not None
    assert (
        found.counts.evaluation_dataset.dropped_rows,
        found.counts.evaluation_dataset.longest_row,
    ) == (1, 222)


def refused(ended: Ended, code: int, *said: str) -> None:
    assert ended.code == code, ended.log
    for each in said:
        assert each in ended.message


def test_missing_evaluation_dataset_is_reported_before_downloads(
    make: MakeWorkshop, hub: Hub
) -> None:
    hub.requests.clear()
    ended = make(evaluation={"dataset": OWN | {"source": "hf://demo/none"}}).run("prepare")
    refused(
        ended,
        66,
        "evaluation.dataset demo/none does not exist on the hub",
        "correct evaluation.dataset.source",
        "set evaluation.dataset.tokenSecretRef to a Secret",
    )
    assert not any("resolve" in request for request in hub.requests)


def test_missing_split_of_the_evaluation_dataset_is_refused(
    make: MakeWorkshop, questions: Path
) -> None:
    ended = make(evaluation={"dataset": OWN | {"split": "dev"}}).run("prepare")
    refused(ended, 65, "evaluation.dataset demo/questions", "Set evaluation.dataset.split")


def test_evaluation_dataset_has_its_own_token(
    make: MakeWorkshop, hub: Hub, questions: Path
) -> None:
    hub.add("dataset", "demo/secret-questions", questions, gated_with="hf_own")
    workshop = make(evaluation={"dataset": OWN | {"source": "hf://demo/secret-questions"}})
    ended = workshop.run("prepare", DATASET_HF_TOKEN="hf_own", MODEL_HF_TOKEN="hf_own")
    refused(ended, 77, "is gated", "set evaluation.dataset.tokenSecretRef to a Secret")
    assert workshop.run("prepare", EVALUATION_DATASET_HF_TOKEN="hf_own").code == 0


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [*tiny.rows(2), {"question": "a"}],
            "evaluation.dataset: row 3 of test.jsonl: has no column 'instruction' (it has "
            "question): set the column in evaluation.dataset.columns",
        ),
        ([], "the dataset has no rows: check evaluation.dataset.source"),
        (
            [{"instruction": "a", "output": "b" * 200}],
            "evaluation.dataset: 1 of 1 rows (100.0 %; at most 5 % are allowed) are longer than",
        ),
    ],
)
def test_invalid_evaluation_rows_are_named(
    make: MakeWorkshop, tmp_path: Path, rows: list[Any], said: str
) -> None:
    """The evaluation dataset is read from a mounted claim."""
    tiny.dataset(tmp_path / "tests", rows, "test.jsonl")
    own = {"source": "pvc://tests/test.jsonl", "format": "alpaca"}
    workshop = make(evaluation={"dataset": own})
    refused(workshop.run("prepare", FINETUNE_SOURCES_DIR=str(tmp_path)), 65, said)
    tiny.dataset(tmp_path / "tests", tiny.rows(100)[60:], "test.jsonl")
    again = workshop.run("prepare", FINETUNE_SOURCES_DIR=str(tmp_path))
    assert again.result["artifacts"]["evaluationDataset"]["rows"] == QUESTIONS, again.log


def test_early_stopping_uses_the_evaluation_dataset(make: MakeWorkshop, questions: Path) -> None:
    """The losses on the evaluation dataset decide which adapter is kept."""
    workshop = make(
        evaluation={"dataset": OWN},
        training={
            "maxSteps": 30,
            "learningRate": 0.1,
            "advanced": {"evalSteps": 1, "earlyStoppingPatience": 2},
        },
    )
    workshop.prepare_and_train()
    facts = manifest.read(workshop.work / "adapter").facts
    losses = dict(facts["evaluations"])
    best = min(losses, key=lambda step: (losses[step], step))
    assert (facts["adapterStep"], facts["globalStep"]) == (best, best + 2)
    reference = json.loads((workshop.work / "reference" / "reference.json").read_text())
    loss = float(evaluate(Reference.model_validate(reference)).dequantized.loss)
    assert losses[best] == pytest.approx(loss, abs=0.02)
