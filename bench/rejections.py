"""``python bench rejections``: how often a correct model is rejected, on simulated servers.

Small random models are trained with adapters, scored like a reference, and served with other
kernels: products in two rounded parts, explicit attention, batches with padding. A combination is
an adapter, a sample of its rows, and the number formats and kernels of a server. Each is compared
as the verifier does. So is the same server with the adapter at 0.9 of its scale.
"""

import argparse
import copy
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.table import table
from finetune_verify.comparing.comparison import APART, MERGED, Comparison, compare
from finetune_verify.scores import ScoredRow

VOCABULARY = 256
WEAK = 0.9
CONFIDENCE = 0.95
SERVERS = (
    ("merged", "float16", "float32"),
    ("merged", "bfloat16", "float32"),
    ("merged", "float16", "float16"),
    ("merged", "bfloat16", "bfloat16"),
    ("adapter", "bfloat16", "bfloat16"),
)
"""Mode, number format of the weights, and that of the arithmetic."""
Row = tuple[list[int], int]
"""Token ids, and the position of the first scored token."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Comparisons of a correct server, and of the same server with a weak adapter."""

    server: tuple[str, str, str]
    correct: Comparison
    weak: Comparison


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--adapters", type=int, default=10, help="adapters, each on its own base")
    parser.add_argument("--samples", type=int, default=4, help="samples of rows for each adapter")


def measure(options: argparse.Namespace) -> str:
    """Compare all combinations and return the table."""
    trials = [
        compared
        for seed in range(options.adapters)
        for compared in _of_adapter(seed, options.samples)
    ]
    rejected = sum(trial.correct.outcome == "Mismatch" for trial in trials)
    verified = [trial for trial in trials if trial.correct.outcome == "Verified"]
    detected = sum(trial.weak.outcome == "Mismatch" for trial in verified)
    head = ("mode", "weights", "computed in", "correct", "rejected", "Verified")
    rows = []
    for server in SERVERS:
        own = [trial for trial in trials if trial.server == server]
        outcomes = [trial.correct.outcome for trial in own]
        weak = sum(trial.weak.outcome == "Mismatch" for trial in own)
        rows.append(
            (
                *server,
                str(len(own)),
                str(outcomes.count("Mismatch")),
                str(outcomes.count("Verified")),
                f"{weak}",
                f"{max(trial.correct.distance / trial.correct.tolerance for trial in own):.0%}",
            )
        )
    return (
        f"Of {len(trials)} combinations without a fault, {rejected} were rejected: at most "
        f"{upper_bound(rejected, len(trials)):.1%} with 95 % confidence. An adapter at {WEAK} of "
        f"its scale was rejected in {detected} of the {len(verified)} combinations that are "
        "Verified without a fault.\n\n"
        + table((*head, f"rejected at {WEAK}", "largest distance / tolerance"), rows)
    )


def upper_bound(events: int, trials: int) -> float:
    """Return the one-sided upper bound of a rate, by Clopper and Pearson."""

    def at_most(rate: float) -> float:
        return math.fsum(
            math.comb(trials, count) * rate**count * (1 - rate) ** (trials - count)
            for count in range(events + 1)
        )

    low, high = events / trials, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if at_most(middle) > 1 - CONFIDENCE else (low, middle)
    return high


def _of_adapter(seed: int, samples: int) -> Iterator[Compared]:
    import torch

    torch.set_num_threads(1)
    drawn = random.Random(seed)
    rows = _rows(drawn, count=60)
    base = _base(seed, layers=drawn.choice((2, 4, 8)), sharpness=drawn.choice((2.0, 6.0)))
    tuned = _with_adapter(base, rank=drawn.choice((4, 16)))
    _train(tuned, rows[:30], steps=drawn.choice((5, 15, 40)), rate=drawn.choice((1e-3, 3e-3)))
    for _ in range(samples):
        sample = drawn.sample(drawn.choice((rows[:30], rows[30:])), drawn.choice((4, 20, 30)))
        reference = {
            "tuned": _scores(tuned, sample),
            "base": _scores(_cast(base, "bfloat16"), sample),
            "rounded": _scores(_merged(tuned, "bfloat16"), sample),
        }
        for server in SERVERS:
            kernels = drawn.randrange(8)
            correct, weak = (
                _judged(_served(tuned, server, scale, kernels), sample, reference, server, kernels)
                for scale in (1.0, WEAK)
            )
            yield Compared(server=server, correct=correct, weak=weak)
    print(f"==> adapter {seed}", flush=True)


def _judged(
    model: Any,
    sample: Sequence[Row],
    reference: dict[str, list[list[float]]],
    server: tuple[str, str, str],
    kernels: int,
) -> Comparison:
    served = _scores(model, sample, batched=bool(kernels & 1))
    rows = [
        ScoredRow(served=own, **{part: scores[at] for part, scores in reference.items()})
        for at, own in enumerate(served)
    ]
    mode, *dtypes = server
    return compare(rows, dtypes=dtypes, paths=MERGED if mode == "merged" else APART)


def _rows(drawn: random.Random, *, count: int) -> list[Row]:
    """Return rows of a noisy sequence, which an adapter can learn in part."""
    rows = []
    for _ in range(count):
        ids = [drawn.randrange(VOCABULARY)]
        for _ in range(drawn.randint(40, 120)):
            ids.append((ids[-1] * 7 + drawn.choice((1, 1, 1, 2, 5))) % VOCABULARY)
        rows.append((ids, drawn.randint(2, 20)))
    return rows


def _base(seed: int, *, layers: int, sharpness: float) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.08,
            tie_word_embeddings=False,
        )
    )
    with torch.no_grad():
        model.lm_head.weight *= sharpness
    return model.to(torch.bfloat16).float().eval()


def _with_adapter(base: Any, *, rank: int) -> Any:
    import peft

    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear")
    return peft.get_peft_model(copy.deepcopy(base), config)


def _train(model: Any, rows: Sequence[Row], *, steps: int, rate: float) -> None:
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate)
    for step in range(steps):
        for at in range(4):
            ids, first = rows[(4 * step + at) % len(rows)]
            labels = torch.tensor([[-100] * first + ids[first:]])
            model(torch.tensor([ids]), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def _cast(model: Any, dtype: str) -> Any:
    import torch

    return copy.deepcopy(model).to(getattr(torch, dtype))


def _merged(model: Any, dtype: str) -> Any:
    return _cast(copy.deepcopy(model).merge_and_unload(), dtype)


def _served(model: Any, server: tuple[str, str, str], scale: float, kernels: int) -> Any:
    """Return the model of a server; ``kernels`` selects how it computes."""
    import peft

    mode, weights, computed = server
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.scaling = {name: scale * factor for name, factor in module.scaling.items()}
    model = _merged(model, weights) if mode == "merged" else _cast(model, weights)
    model = _cast(model, computed)
    if kernels & 2:
        model.set_attn_implementation("eager")
    if kernels & 4:
        _split_products(model)
    return model


def _split_products(model: Any) -> None:
    """Compute each product with the weights of a layer in two parts, each rounded."""
    import torch

    def split(linear: Any) -> Any:
        half = linear.in_features // 2

        def forward(states: Any) -> Any:
            left, right = states[..., :half], states[..., half:]
            product = torch.nn.functional.linear
            return product(left, linear.weight[:, :half]) + product(right, linear.weight[:, half:])

        return forward

    for name, module in model.named_modules():
        if type(module) is torch.nn.Linear and "lora" not in name and "lm_head" not in name:
            module.forward = split(module)


def _scores(model: Any, rows: Sequence[Row], *, batched: bool = False) -> list[list[float]]:
    import torch

    longest = max(len(ids) for ids, _ in rows)
    size = len(rows) if batched else 1
    scores = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        width = longest if batched else len(part[0][0])
        padded = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in part])
        with torch.no_grad():
            logits = model(padded).logits.float().log_softmax(-1)
        for at, (ids, first) in enumerate(part):
            places = torch.arange(first - 1, len(ids) - 1)
            scores.append(logits[at, places, torch.tensor(ids[first:])].tolist())
    return scores
