"""The loss of the learned tokens against TRL's own: the same number, the same gradient."""

import json
from typing import Any

import pytest
import torch
from tests.trainer.conftest import MakeWorkshop
from trl.trainer import sft_trainer

from finetune_trainer.backends.head import learned_loss
from finetune_trainer.rendering import IGNORED

STOCK = sft_trainer._chunked_cross_entropy_loss
BATCH, LENGTH, HIDDEN, VOCABULARY = 4, 50, 32, 300
PIECE = 16


def labels(share: float) -> torch.Tensor:
    """Return labels of which this share is learned."""
    drawn = torch.Generator().manual_seed(1)
    found = torch.randint(VOCABULARY, (BATCH, LENGTH), generator=drawn)
    found[torch.rand(BATCH, LENGTH, generator=drawn) >= share] = IGNORED
    return found


def computed(function: Any, dtype: torch.dtype, wanted: torch.Tensor, **more: Any) -> Any:
    """Return loss, gradient of three times the loss, and the number of learned tokens."""
    drawn = torch.Generator().manual_seed(2)
    hidden = torch.randn(BATCH, LENGTH, HIDDEN, generator=drawn).to(dtype).requires_grad_()
    head = torch.randn(VOCABULARY, HIDDEN, generator=drawn).to(dtype)
    loss, _, _, count = function(hidden, head, PIECE, labels=wanted, **more)
    (3 * loss).backward()
    return loss.detach(), hidden.grad, count


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"num_items_in_batch": torch.tensor(77)},
        {"logit_scale": 0.3, "final_logit_softcapping": 5.0},
        {"lm_head_bias": torch.linspace(-1, 1, VOCABULARY)},
    ],
    ids=["mean", "share of a larger batch", "scaled and capped", "bias"],
)
@pytest.mark.parametrize("share", [0.3, 0.04, 1.0])
def test_loss_and_gradient_are_trls(more: dict[str, Any], share: float) -> None:
    wanted = labels(share)
    ours = computed(learned_loss, torch.float32, wanted, **more)
    theirs = computed(STOCK, torch.float32, wanted, **more)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-5, atol=1e-6)
    assert ours[2] == theirs[2]


def test_in_bfloat16_no_further_from_the_exact_gradient_than_trls() -> None:
    wanted = labels(0.3)
    exact = computed(STOCK, torch.float32, wanted)[1]
    ours = computed(learned_loss, torch.bfloat16, wanted)[1]
    theirs = computed(STOCK, torch.bfloat16, wanted)[1]
    assert (ours - exact).norm() <= 1.1 * (theirs - exact).norm()


def test_a_batch_that_teaches_nothing_moves_nothing() -> None:
    loss, gradient, count = computed(learned_loss, torch.float32, labels(0))
    assert (loss, count) == (0, 0)
    assert not gradient.any()


def test_trainings_use_it_and_log_no_metric_that_is_not_computed(make: MakeWorkshop) -> None:
    workshop = make(training={"maxSteps": 2, "advanced": {"saveSteps": 1}})
    workshop.stage_and_train()
    (state,) = (workshop.work / "checkpoints").glob("*1/trainer_state.json")
    (first, *_) = json.loads(state.read_text())["log_history"]
    assert first["num_tokens"] > 0
    assert not {"entropy", "mean_token_accuracy"} & first.keys()
