"""Comparison of generated tokens: what rounding allows, and what it does not explain."""

import math
import random
from collections.abc import Sequence

import pytest

from finetune_api.contracts.reference import Reference
from finetune_verify import decoding
from finetune_verify.comparing.agreement import Agreement
from finetune_verify.comparing.comparison import MERGED
from finetune_verify.comparing.few_tokens import RECORDED
from finetune_verify.decoding import PROMPTS, TOKENS, TOKENS_OF_PROMPT, Pair, tolerance
from finetune_verify.errors import Mismatch
from finetune_verify.scores import ScoredRow
from finetune_verify.vllm_client import VllmClient

ODDS = 0.05
"""Rounding errors of log-odds in bfloat16."""


def score(odds: float) -> float:
    return -math.log1p(math.exp(-odds))


def scored(drawn: random.Random, odds: float) -> ScoredRow:
    """Return the scores of 500 tokens with about these log-odds."""
    exact = [odds + drawn.gauss(0, 1) for _ in range(500)]
    tuned = [score(each) for each in exact]
    rounded = [score(each + drawn.gauss(0, ODDS)) for each in exact]
    return ScoredRow(served=tuned, tuned=tuned, base=tuned, rounded=rounded)


def generated(drawn: random.Random, odds: float, noise: float) -> list[Pair]:
    exact = [odds + drawn.gauss(0, 1) for _ in range(TOKENS)]
    return [
        (score(each + drawn.gauss(0, noise)), score(each + drawn.gauss(0, noise))) for each in exact
    ]


def within(pairs: Sequence[Pair], row: ScoredRow, dtype: str) -> bool:
    distance = math.sqrt(math.fsum((a - b) ** 2 for a, b in pairs) / len(pairs))
    allowed = tolerance(pairs, [row], dtypes=(dtype,), paths=MERGED)
    assert allowed is not None
    return distance <= allowed


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("recorded", [-1.0, 6.0], ids=["uncertain rows", "memorized rows"])
@pytest.mark.parametrize("odds", [-1.0, 6.0], ids=["uncertain tokens", "certain tokens"])
def test_rounding_is_allowed(seed: int, recorded: float, odds: float) -> None:
    """Whether or not the rows of the reference are as certain as the generated tokens."""
    drawn = random.Random(seed)
    row = scored(drawn, recorded)
    assert within(generated(drawn, odds, ODDS), row, "bfloat16")
    assert within(generated(drawn, odds, ODDS / 8), row, "float16")


@pytest.mark.parametrize("seed", range(20))
def test_more_than_rounding_is_not_allowed(seed: int) -> None:
    drawn = random.Random(seed)
    row = scored(drawn, -1.0)
    assert not within(generated(drawn, 0.0, 20 * ODDS), row, "bfloat16")
    assert not within(generated(drawn, 0.0, 20 * ODDS / 8), row, "float16")
    assert not within([(math.nan, -1.0)], row, "bfloat16")


class Scripted(VllmClient):
    """A server whose generated tokens have another log-probability than in a prompt."""

    def __init__(self, difference: float, *, most: int = 100) -> None:
        """No session: nothing is sent. most: length of an answer that a stop token ends."""
        self.difference = difference
        self.most = most
        self.prompts: list[list[int]] = []

    async def generate(
        self, ids: Sequence[int], count: int, **_: object
    ) -> list[tuple[int, float]]:
        self.prompts.append(list(ids))
        # The first token is not decoded.
        return [(7, -9.0), *[(7, -1.0 + self.difference)] * (min(count, self.most) - 1)]

    async def logprobs(self, ids: Sequence[int]) -> list[float]:
        return [-1.0] * (len(ids) - 1)


def reference(*prompts: int) -> Reference:
    """Return a reference whose rows have prompts of these lengths."""
    scores = {"base": [-1.0], "tuned": [-1.0], "rounded": [-1.1]}
    rows = [
        {
            "ids": [1] * (length + 1),
            "spans": [(length, length + 1)],
            "original": scores,
            "dequantized": scores,
        }
        for length in prompts
    ]
    return Reference.model_validate({"rows": rows, "heldOut": False})


async def compared(server: Scripted, *prompts: int, recorded: int = RECORDED) -> Agreement | None:
    one = [-1.0] * recorded
    return await decoding.require_agreement(
        server,
        reference(*prompts),
        [ScoredRow(served=one, tuned=one, base=one, rounded=[-1.1] * recorded)],
        longest=64,
        dtypes=("bfloat16",),
        paths=MERGED,
    )


async def test_tokens_of_several_prompts_that_fit_are_compared() -> None:
    server = Scripted(0.0)
    found = await compared(server, 5, 60, 6, 7)
    assert found is not None
    assert (found.tokens, found.distance) == (TOKENS, 0.0)
    assert list(map(len, server.prompts)) == [5, 6]
    assert TOKENS_OF_PROMPT * 2 == TOKENS


async def test_other_log_probabilities_than_in_a_prompt_are_a_mismatch() -> None:
    with pytest.raises(Mismatch, match=r"is 2 nats over 16 tokens; the tolerance is"):
        await compared(Scripted(2.0), 5, 6)


async def test_too_few_recorded_tokens_bound_no_rounding() -> None:
    assert await compared(Scripted(2.0), 5, 6, recorded=RECORDED - 1) is None


async def test_short_answers_need_more_prompts() -> None:
    server = Scripted(0.0, most=3)
    found = await compared(server, *[5] * 20)
    assert found is not None
    assert (found.tokens, len(server.prompts)) == (TOKENS, 8)


async def test_nothing_is_compared_without_a_decoded_token() -> None:
    assert await compared(Scripted(2.0), 60, 62) is None
    server = Scripted(2.0, most=1)
    assert await compared(server, *[5] * 300) is None
    assert len(server.prompts) == PROMPTS
