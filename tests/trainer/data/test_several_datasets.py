"""Several datasets: passes, held-out rows across datasets, and statistics of each."""

from typing import Any

import pytest
from tests.support.trainer import tiny

from finetune_api.contracts.job_config import JobConfig
from finetune_trainer.data.chat_rendering import Renderer
from finetune_trainer.data.dataset import Prepared, prepare
from finetune_trainer.data.rows.readers import Row
from finetune_trainer.data.tokenize_rows import RowTokenizer
from finetune_trainer.errors import DatasetInvalid


def job(*datasets: dict[str, Any], **training: Any) -> JobConfig:
    listed = [
        {"name": f"d{at}", "source": f"hf://a/d{at}", "format": "alpaca", **each}
        for at, each in enumerate(datasets)
    ]
    return JobConfig.model_validate(
        tiny.job("hf://a/b", "hf://c/d", dataset=None, datasets=listed, training=training)
    )


def finish(spec: JobConfig, *contents: list[Any]) -> Prepared:
    """Tokenize datasets like the prepare stage."""
    tokenizer = tiny.tokenizer()
    renderer = Renderer(tokenizer, template=tiny.CHAT_TEMPLATE, train_on="responses", stops=[0])
    kinds = list(spec.rows_of_training)
    made = RowTokenizer(spec, renderer, template="chat", kind=kinds[0])
    for kind, rows in zip(kinds, contents, strict=True):
        made.begin(kind)
        made.add_all(
            Row(file="train.jsonl", number=at, values=row) for at, row in enumerate(rows, 1)
        )
    made.check(vocabulary=320)
    return prepare(spec, made, None)


def texts(found: Prepared) -> list[str]:
    tokens = found.train
    return [
        str(tiny.tokenizer().decode(tokens.input_ids[start:end]))
        for start, end in zip(tokens.rows, tokens.rows[1:], strict=False)
    ]


def numbered(mark: str, count: int) -> list[dict[str, str]]:
    return [{"instruction": f"{mark}{at}", "output": "yes"} for at in range(count)]


@pytest.mark.parametrize(
    ("weights", "rows"), [((1, 1), (8, 20)), ((2, 0.5), (16, 10)), ((0.25, 1.5), (2, 30))]
)
def test_weight_is_the_number_of_passes(
    weights: tuple[float, float], rows: tuple[int, int]
) -> None:
    spec = job(*({"weight": weight} for weight in weights))
    found = finish(spec, numbered("a", 8), numbered("b", 20))
    counted = texts(found)
    for mark, count, weight, in_all in zip("ab", rows, weights, (8, 20), strict=True):
        own = [text for text in counted if f"user\n{mark}" in text]
        assert len(own) == count
        assert len(set(own)) == min(in_all, count)
        if weight > 1:
            assert max(own.count(text) for text in own) == -(-weight // 1)
    assert [each.rows for each in found.counts.datasets or ()] == list(rows)
    assert found.counts.rows == sum(rows) == found.train.count


def test_subset_is_drawn_by_the_seed_alone() -> None:
    drawn = []
    for seed in (1, 1, 2):
        spec = job({"weight": 0.5}, {}, seed=seed)
        drawn.append(sorted(texts(finish(spec, numbered("a", 20), numbered("b", 3)))))
    assert drawn[0] == drawn[1] != drawn[2]


def test_rows_are_held_out_of_all_datasets_together() -> None:
    spec = job({}, {"validationFraction": 0.25, "weight": 3})
    shared = numbered("s", 10)
    found = finish(spec, [*numbered("a", 30), *shared], [*numbered("b", 30), *shared])
    assert (
        sum(each.validation_rows for each in found.counts.datasets or ())
        == found.counts.validation_rows
    )
    assert all(each.validation_rows for each in found.counts.datasets or ())
    held_out = {
        str(tiny.tokenizer().decode(found.held_out.input_ids[start:end]))
        for start, end in zip(found.held_out.rows, found.held_out.rows[1:], strict=False)
    }
    assert held_out.isdisjoint(texts(found))
    assert {row["dataset"] for row in found.sample} == {"datasets[d0]", "datasets[d1]"}


def test_rows_that_two_datasets_share_can_be_dropped() -> None:
    spec = job({"duplicates": "drop"}, {})
    found = finish(spec, numbered("a", 5), [*numbered("a", 5), *numbered("b", 2)])
    assert [each.rows for each in found.counts.datasets or ()] == [5, 2]
    assert found.counts.duplicate_rows == 5


def test_max_samples_limits_each_dataset() -> None:
    spec = job({"maxSamples": 3}, {"maxSamples": 2})
    found = finish(spec, numbered("a", 9), numbered("b", 9))
    assert [each.rows for each in found.counts.datasets or ()] == [3, 2]


def test_errors_name_the_dataset() -> None:
    spec = job({}, {"format": "text"})
    with pytest.raises(DatasetInvalid) as refused:
        finish(spec, [{"instruction": "a"}], [{"text": ""}])
    assert str(refused.value) == (
        "datasets[d0]: row 1 of train.jsonl: has no column 'output' (it has instruction): set the "
        "column in datasets[d0].columns; datasets[d1]: row 1 of train.jsonl: column 'text' is "
        "empty: remove the row, or fill in the column"
    )
