"""Reference rows and scores, the held-out evaluation, and frozen chat templates."""

import json
import math
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from tests.support.trainer import tiny
from tests.support.trainer.hub import Hub
from tests.support.trainer.logits import load
from tests.support.trainer.workshop import Workshop
from tests.trainer.conftest import MakeWorkshop

from finetune_api.contracts import reference
from finetune_api.contracts.result import Result
from finetune_api.v1alpha1.status.artifacts import TrainArtifacts
from finetune_trainer.checkpointing import manifest
from finetune_trainer.data.chat_rendering import IGNORED, Renderer
from finetune_trainer.data.reference_sample import (
    ENOUGH_ROWS,
    ENOUGH_TOKENS,
    LENGTH,
    MOST_ROWS,
    Sample,
    spans_of,
)
from finetune_trainer.data.rows.schema import Example
from finetune_trainer.data.split import content_hash
from finetune_trainer.evaluation.layerwise_model import LayerwiseModel
from finetune_trainer.evaluation.loss_comparison import difference, evaluate
from finetune_trainer.evaluation.scorer import TOKENS_AT_ONCE, Scorer, in_batches, models
from finetune_trainer.quantization.quant_state import DequantizedBase

BASE = ("original", "base")
PINNED = ["164", "203", "178", "179", "248", "287"]
"""First rows of a sample of 300 rows with seed 1."""
CLOCK = "{% set today = strftime_now('%d %b %Y') %}<|im_start|>system\n{{ today }}<|im_end|>\n"


def sampled(
    lengths: list[int], *, held_out: int = 0, seed: int = 1, backwards: bool = False
) -> list[Any]:
    """Return the sample of rows whose answers have these lengths.

    held_out: number of held-out rows.
    """
    tokenizer = tiny.tokenizer()
    renderer = Renderer(tokenizer, template=tiny.CHAT_TEMPLATE, train_on="responses", stops=[0])
    sample, contents = Sample(), []
    for at, length in sorted(enumerate(lengths), reverse=backwards):
        answer = "x" * (length - 1)
        messages = [
            {"role": "user", "content": str(at)},
            {"role": "assistant", "content": answer},
        ]
        example = Example(messages=messages)
        encoded = renderer.conversation(messages)
        contents.append(content_hash(example, seed))
        sample.offer(example, encoded, contents[-1])
    largest = sorted(contents)[held_out - 1] if held_out else None
    return sample.choose(renderer, held_out=bool(held_out), largest=largest)


def tokens(rows: list[Any]) -> int:
    return sum(end - start for row in rows for start, end in row["spans"])


def test_sample_takes_just_enough_rows() -> None:
    rows = sampled([100] * 100)
    assert ENOUGH_TOKENS <= tokens(rows) < ENOUGH_TOKENS + 100
    assert len(sampled([2] * 400)) == MOST_ROWS
    assert len(sampled([5] * 7)) == 7


def test_sample_takes_held_out_rows_only() -> None:
    rows = sampled([300] * 200, held_out=50)
    assert len(rows) == ENOUGH_ROWS
    few = sampled([300] * 200, held_out=20)
    assert few == rows[:20], "the held-out rows, in the order of their hashes"
    assert len(sampled([2] * 400, held_out=300)) == MOST_ROWS


def test_sample_depends_on_rows_and_seed_only() -> None:
    """The expected rows are fixed values, because each test process has another hash seed."""
    lengths = [50 + at % 7 for at in range(300)]
    rows = sampled(lengths)
    assert [row["messages"][0]["content"] for row in rows[:6]] == PINNED
    assert sampled(lengths, backwards=True) == rows
    assert sampled(lengths, seed=2) != rows


def test_long_rows_are_truncated_with_their_answers() -> None:
    (row,) = sampled([LENGTH * 2])
    assert len(row["ids"]) == LENGTH
    assert row["spans"][-1][1] == LENGTH
    assert spans_of([1, IGNORED, 2, 3, IGNORED, 4]) == [(2, 4), (5, 6)]


def test_paired_difference_is_a_ratio_estimate() -> None:
    drawn = random.Random(1)
    base = [[drawn.gauss(-2, 1) for _ in range(drawn.randint(5, 60))] for _ in range(40)]
    tuned = [[score + drawn.gauss(0.3, 0.5) for score in row] for row in base]
    found = difference(tuned, base)
    flat = [b - t for x, y in zip(tuned, base, strict=True) for t, b in zip(x, y, strict=True)]
    assert found.mean == pytest.approx(math.fsum(flat) / len(flat))
    assert found.mean < -0.2

    def resampled() -> float:
        rows = [drawn.randrange(len(base)) for _ in base]
        return difference([tuned[r] for r in rows], [base[r] for r in rows]).mean

    means = [resampled() for _ in range(400)]
    centre = math.fsum(means) / len(means)
    spread = math.sqrt(math.fsum((each - centre) ** 2 for each in means) / len(means))
    assert found.standard_error == pytest.approx(spread, rel=0.25)
    assert difference(tuned[:1], base[:1]).standard_error == math.inf


def test_frozen_template_is_used_and_published(
    make: MakeWorkshop, hub: Hub, tmp_path: Path
) -> None:
    folder = tiny.model(tmp_path / "base")
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = CLOCK + tiny.CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    workshop = make(
        model={"source": hub.add("model", "demo/clock", folder)}, training={"maxSteps": 1}
    )
    prepared = workshop.succeed("prepare")
    assert any("the day of preparation" in each for each in prepared.result["warnings"])
    workshop.succeed("train")
    workshop.succeed("merge", build="b")
    shipped = (workshop.work / "merged-b" / "chat_template.jinja").read_text()
    assert "macro strftime_now(" in shipped, (
        "the template defines its own function instead of the clock"
    )
    row = json.loads((workshop.work / "reference" / "reference.json").read_text())["rows"][0]
    text = tokenizer.apply_chat_template(
        row["messages"], tokenize=False, add_generation_prompt=True, chat_template=shipped
    )
    assert tokenizer(text, add_special_tokens=False).input_ids == row["promptIds"]
    assert str(datetime.now(UTC).year) in text


def test_rows_digest_identifies_evaluations_of_the_same_rows() -> None:
    def scored(ids: list[int], score: float) -> reference.Reference:
        scores = {"base": [-2.0], "tuned": [score], "rounded": [score]}
        row = {"ids": ids, "spans": [(2, 3)], "original": scores, "dequantized": scores}
        return reference.Reference.model_validate({"rows": [row], "heldOut": True})

    first, better, other = (
        evaluate(scored(ids, score)).rows_digest
        for ids, score in (([1, 2, 3], -1.0), ([1, 2, 3], -0.5), ([1, 2, 4], -1.0))
    )
    assert first == better != other


def test_loss_of_each_dataset_is_reported_and_fits_the_result() -> None:
    """The largest list of datasets with the longest names."""
    names = [f"datasets[{'n' * 22}{at:02}]" for at in range(16)]

    def row(name: str, base: list[float], tuned: list[float]) -> dict[str, Any]:
        return {
            "ids": [1, *range(2, 2 + len(base))],
            "spans": [(1, 1 + len(base))],
            "dataset": name,
            "original": {"base": base, "tuned": tuned, "rounded": tuned},
            "dequantized": {"base": base, "tuned": tuned, "rounded": tuned},
        }

    rows = [row(name, [-3.0], [-1.0]) for name in names]
    rows.append(row(names[0], [-1.0, -2.0], [-0.5, -1.5]))
    found = evaluate(reference.Reference.model_validate({"rows": rows, "heldOut": True}))
    assert found.datasets is not None
    assert [each.name for each in found.datasets] == names
    first, second = found.datasets[:2]
    assert (first.tokens, first.base_loss, first.loss) == (3, "2.00000", "1.00000")
    assert (second.tokens, second.base_loss, second.loss) == (1, "3.00000", "1.00000")
    artifacts = TrainArtifacts(adapter=f"sha256:{'0' * 64}", evaluation=found)
    result = Result(stage="train", outcome="completed", reason="Completed", artifacts=artifacts)
    read = Result.from_message(result.to_message())
    assert read is not None
    assert read.artifacts == artifacts


def test_batches_group_similar_lengths_and_cover_each_row_once() -> None:
    drawn = random.Random(3)
    lengths = [drawn.randint(1, 512) for _ in range(200)] + [TOKENS_AT_ONCE + 1]
    batches = in_batches([[0] * length for length in lengths])
    assert sorted(number for batch in batches for number in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[at] for at in batch) <= TOKENS_AT_ONCE
    padded = sum(len(batch) * max(lengths[at] for at in batch) for batch in batches)
    assert padded < 1.2 * sum(lengths), "all in one batch would be twice as many"


def test_evaluated_base_is_scored_in_float32(done: Workshop) -> None:
    trained = manifest.read(done.work / "adapter")
    rows = json.loads((done.work / "reference" / "reference.json").read_text())["rows"][:4]
    layerwise = LayerwiseModel(
        done.work / "base",
        done.work / "adapter",
        DequantizedBase(trained, done.work / "adapter"),
        device=torch.device("cpu"),
    )
    positions = [[at for span in row["spans"] for at in range(*span)] for row in rows]
    wanted = models(evaluated=True)
    found = Scorer(layerwise).score(wanted, [row["ids"] for row in rows], positions)
    (own,) = (scores for model, scores in found.items() if (model.kind, model.part) == BASE)
    base = load(done.work / "base", dtype=torch.float32)
    for at, row in enumerate(rows):
        with torch.no_grad():
            logits = base(torch.tensor([row["ids"]])).logits[0].log_softmax(-1)
        expected = [float(logits[p - 1, row["ids"][p]]) for p in positions[at]]
        assert own[at] == pytest.approx(expected, abs=1e-4)
        assert row["original"]["base"] != pytest.approx(expected, abs=1e-4), "not evaluated: coarse"


def test_model_with_large_activations_is_merged_in_bfloat16(
    make: MakeWorkshop, hub: Hub, tmp_path: Path
) -> None:
    large = load(tiny.model(tmp_path / "small"), dtype=torch.bfloat16)
    # The hidden states between the layers are large, and the norms in the layers undo it.
    large.get_input_embeddings().weight.data *= 1e6
    large.save_pretrained(tmp_path / "large")
    tiny.tokenizer().save_pretrained(tmp_path / "large")
    workshop = make(
        model={"source": hub.add("model", "demo/large", tmp_path / "large")},
        training={"maxSteps": 1},
    )
    workshop.succeed("prepare")
    found = workshop.succeed("train").result["artifacts"]["largestActivation"]
    rows = json.loads((workshop.work / "reference" / "reference.json").read_text())["rows"]
    assert found == pytest.approx(largest_embedding(workshop, rows), rel=1e-3)
    assert found > 2**14
    merged = workshop.succeed("merge", build="b", largest_activation=found)
    assert merged.result["artifacts"]["mergedDtype"] == "bfloat16"


def largest_embedding(workshop: Workshop, rows: list[Any]) -> float:
    """Return the largest magnitude of an embedding in the rows, to which layers add little."""
    weight = load(workshop.work / "base", dtype=torch.float32).get_input_embeddings().weight
    # The last token of a row is a target only.
    return max(float(weight[row["ids"][:-1]].abs().max()) for row in rows)


def test_largest_activation_is_that_of_the_tuned_model(done: Workshop) -> None:
    document = json.loads((done.work / "reference" / "reference.json").read_text())
    seen: list[float] = []

    def look(module: Any, given: tuple[Any, ...], result: Any) -> None:
        tensors = [each for each in (*given, result) if torch.is_tensor(each)]
        seen.extend(float(each.abs().max()) for each in tensors if each.is_floating_point())

    tuned = peft.PeftModel.from_pretrained(
        load(done.work / "base", dtype=torch.float32), done.work / "adapter"
    )
    merged = tuned.merge_and_unload()
    for layer in merged.model.layers:
        for module in layer.modules():
            module.register_forward_hook(look)
    for row in document["rows"]:
        with torch.no_grad():
            merged(torch.tensor([row["ids"][:-1]]))
    # The model on the 4-bit base may have a slightly larger one.
    assert max(seen) <= document["largestActivation"] <= math.ceil(1.2 * max(seen))


def test_held_out_rows_are_evaluated(make: MakeWorkshop) -> None:
    workshop = make(dataset={"validationFraction": 0.4}, training={"maxSteps": 6})
    workshop.succeed("prepare")
    found = workshop.succeed("train").result["artifacts"]["evaluation"]
    rows = manifest.read(workshop.work / "dataset").facts["validationRows"]
    assert found["rows"] == rows > 2
    assert float(found["baseLoss"]) > 3
    for kind in ("dequantized", "original"):
        build = found[kind]
        assert float(build["difference"]) == pytest.approx(
            float(build["loss"]) - float(found["baseLoss"]), abs=2e-5
        )
        assert 0 < float(build["standardError"]) < 1
