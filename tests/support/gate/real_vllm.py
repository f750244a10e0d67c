"""The pinned vLLM on a CPU behind a gate, with a tiny model and random adapters."""

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
import torch
from tests.fakes import vllm_server
from tests.support.gate import claim as claims
from tests.support.gate import gate as gates
from tests.support.gate.claim import Claim
from tests.support.gate.gate import Gate
from tests.support.real_vllm import PYTHON
from tests.support.trainer import tiny
from tests.support.trainer.logits import load

from finetune_api.contracts.endpoint import WantedName

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TEMPLATE = tiny.CHAT_TEMPLATE.replace("assistant\n", "assistant:\n")
ROWS, ANSWER = 8, 32


def base(work: Path) -> Claim:
    """Return a claim whose base vLLM supports: its attention needs heads of 32 numbers."""
    folder = tiny.model(work / "model", hidden_size=128, intermediate_size=256)
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    facts = {"baseCommit": claims.COMMIT, "quantizedModules": {}, "dtype": "float32"}
    (work / "claim").mkdir()
    manifest, _ = claims.publish(work / "claim" / "base", "base", facts, files)
    return Claim(root=work / "claim", base_manifest=manifest)


def randomize(model: Any, seed: int) -> None:
    """Give an adapter an effect."""
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
    """Return the log-probabilities of the answer of a row."""
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
    """Run a vLLM with the base of a claim."""
    claim = base(tmp_path)
    vllm = Vllm(tmp_path / "vllm.sock")
    vllm.dtype, vllm.model = dtype, claim.root / "base"
    await vllm.start()
    try:
        yield vllm, claim
    finally:
        await vllm.kill()


@asynccontextmanager
async def gate_of(tmp_path: Path, vllm: Vllm, claim: Claim, *extra: str) -> AsyncIterator[Gate]:
    """Run a gate in front of a vLLM. extra: further arguments."""
    own = ("--max-rank", "8", "--capacity", "8", "--dtype", vllm.dtype, "--modules", *MODULES)
    async with gates.running(tmp_path, *extra, *own, vllm=vllm, claim=claim) as found:
        yield found


@asynccontextmanager
async def endpoint(tmp_path: Path, *extra: str, dtype: str = "bfloat16") -> AsyncIterator[Gate]:
    """Run a vLLM with a gate. extra: further arguments of the gate."""
    async with (
        engine(tmp_path, dtype) as (vllm, claim),
        gate_of(tmp_path, vllm, claim, *extra) as found,
    ):
        yield found
