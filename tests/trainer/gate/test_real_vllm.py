"""The gate in front of the pinned vLLM on a CPU, with a tiny model and random adapters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.gate import gate as gates
from tests.support.gate.real_vllm import (
    Vllm,
    add,
    endpoint,
    engine,
    gate_of,
    randomize,
)
from tests.support.real_vllm import MARKS, START_SECONDS

from finetune_api.contracts.endpoint import NameStatus

pytestmark = MARKS


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a vLLM that starts."""
    monkeypatch.setattr(gates, "PATIENCE", START_SECONDS)


def half_of_the_scale(model: Any) -> None:
    model.peft_config["default"].lora_alpha /= 2


def a_layer_without_its_delta(model: Any) -> None:
    for parameter, values in model.named_parameters():
        if "lora_B" in parameter and "layers.1" in parameter:
            values.data.zero_()


def another_adapter(model: Any) -> None:
    randomize(model, 99)


PLANTS: dict[str, Callable[[Any], None]] = {
    "half": half_of_the_scale,
    "layer": a_layer_without_its_delta,
    "another": another_adapter,
}
"""Changes of the published files after the reference was recorded: only scores can show them."""


SHARES = (0.01, 0.02, 0.03, 0.05, 0.1)
"""Of an adapter's delta that lack."""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_adapters_of_a_real_vllm_are_proved(tmp_path: Path, dtype: str) -> None:
    async with endpoint(tmp_path, dtype=dtype) as gate:
        first, second = add(gate.claim, "first", 1), add(gate.claim, "second", 2)
        planted = [
            add(gate.claim, name, seed, plant=plant)
            for seed, (name, plant) in enumerate(PLANTS.items(), start=3)
        ]
        await gate.want(first, second, *planted)
        for name in ("first", "second"):
            found = await gate.until(name, lambda each: each.state in ("Serving", "Failed"))
            print(f"{name}: smallest fault {found.smallest_fault}: {found.message}")
            assert found.outcome == "Verified", found
            assert "while a neighbour and the base decode in the same batches" in found.message
            assert "cached tokens agrees" in found.message
        for name in PLANTS:
            found = await gate.until(name, lambda each: each.state in ("Serving", "Failed"))
            print(f"{name}: {found.message}")
            assert found.state == "Failed", found
            assert "not the tuned model" in found.message
        status = await gate.status()
        print(status.self_test)
        assert status.self_test.startswith("the base agrees while an adapter decodes")

        answers = {}
        for name in ("first", "second"):
            code, body = await gate.chat(name, max_tokens=16, temperature=0)
            assert (code, body["model"]) == (200, name)
            answers[name] = body["choices"][0]["message"]["content"]
        assert answers["first"] != answers["second"]
        events = await gate.stream("first", count=16, ignore_eos=True)
        assert {each["model"] for each in events} == {"first"}

        # After a restart, the name is proved again.
        assert isinstance(gate.vllm, Vllm)
        await gate.vllm.kill()
        assert (await gate.chat("first"))[0] == 503
        await gate.vllm.start()
        found = await gate.until(
            "first", lambda each: each.state == "Serving" and each.boot != status.boot
        )
        code, body = await gate.chat("first", max_tokens=16, temperature=0)
        assert body["choices"][0]["message"]["content"] == answers["first"]


def without(share: float) -> Callable[[Any], None]:
    """Return a change of the published files after which a share of the adapter's delta lacks."""

    def plant(model: Any) -> None:
        for parameter, values in model.named_parameters():
            if "lora_B" in parameter:
                values.data *= 1 - share

    return plant


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_the_smallest_fault_of_the_status_is_found(tmp_path: Path, dtype: str) -> None:
    """A share of the delta changes the log-odds by about the same share, but not exactly."""
    async with endpoint(tmp_path, dtype=dtype) as gate:
        whole = add(gate.claim, "whole", 1)
        await gate.want(whole)
        verified = await gate.until("whole", lambda each: each.state in ("Serving", "Failed"))
        assert verified.outcome == "Verified", verified.message
        smallest = verified.smallest_fault
        assert smallest is not None
        print(f"{dtype}: smallest fault {smallest}: {verified.message}")
        for number, share in enumerate(sorted((1.5 * smallest, *SHARES))):
            name = f"lacks-{number}"
            await gate.want(whole, add(gate.claim, name, 1, plant=without(share)))
            found = await gate.until(name, lambda each: each.state in ("Serving", "Failed"))
            print(f"without {share:.3g} of the delta: {found.state}: {found.message}")
            if share >= 1.5 * smallest:
                assert found.state == "Failed", found
                assert "not the tuned model" in found.message


def has_ended(status: NameStatus) -> bool:
    """Report whether a name answers, or does not by itself."""
    return status.state in ("Serving", "Failed") or status.message.startswith("failed: ")


async def test_names_return_after_restarts_of_the_gate_alone(tmp_path: Path) -> None:
    """An unloaded adapter keeps its slot in vLLM, which has four here."""
    async with engine(tmp_path) as (vllm, claim):
        wanted = [add(claim, "first", 1), add(claim, "second", 2)]
        answers = set()
        for number in range(3):
            async with gate_of(tmp_path, vllm, claim) as gate:
                gate.sequence = number
                await gate.want(*wanted)
                for name in ("first", "second"):
                    found = await gate.until(name, lambda each: has_ended(each))
                    assert found.outcome == "Verified", found
                code, body = await gate.chat("first", max_tokens=16, temperature=0)
                assert code == 200
                answers.add(body["choices"][0]["message"]["content"])
        assert len(answers) == 1
