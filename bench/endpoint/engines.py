"""The models and servers of ``bench adapters``: adapters of one base, a merged model, vLLM, a gate.

vLLM runs on one core, and everything else on another one.
"""

import os
import shutil
import signal
import socket as sockets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.ports import free_port
from tests.support.trainer import tiny

REPOSITORY = Path(__file__).resolve().parents[2]
VLLM_CORE, OTHER_CORE = 1, 0
START_SECONDS = 1800.0
"""Of vLLM on a busy machine, most of it imports."""
BASE = "base"
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK = 16
SHAPES: Mapping[str, Mapping[str, int]] = {
    "smollm2-135m": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "tiny": {"hidden_size": 128, "intermediate_size": 256},
}
"""Widths of the base; the tokenizer has one token per byte."""


def make(folder: Path, shape: str, count: int) -> None:
    """Write ``base``, the adapters ``adapter-0`` and following, and ``merged`` with the first."""
    import peft
    import torch
    import transformers

    base = tiny.model(folder / BASE, shard="1GB", **dict[str, Any](SHAPES[shape]))
    config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(MODULES))
    for number in range(count):
        torch.manual_seed(number)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
        adapted = peft.get_peft_model(loaded, config)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.01)
        adapted.save_pretrained(folder / f"adapter-{number}")
        if not number:
            adapted.merge_and_unload().save_pretrained(folder / "merged")
            for path in base.glob("*token*"):
                shutil.copy(path, folder / "merged")


@contextmanager
def vllm(python: str, model: Path, socket: Path, *, adapters: int) -> Iterator[int]:
    """Run vLLM with the settings of an endpoint, or without adapters; yield its process group."""
    words = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    words += ["--served-model-name", BASE, "--uds", str(socket), "--dtype", "bfloat16"]
    words += ["--max-model-len", "1024", "--max-num-seqs", "16", "--enforce-eager"]
    if adapters:
        words += ["--enable-lora", "--max-lora-rank", str(RANK)]
        words += ["--max-loras", str(adapters + 1), "--max-cpu-loras", str(2 * adapters + 1)]
        words += ["--lora-target-modules", *MODULES]
    environment = os.environ | {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": str(VLLM_CORE),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    environment.pop("PYTHONPATH", None)
    log = socket.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["taskset", "-c", str(VLLM_CORE), *words],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(lambda: _accepts(socket), process, log)
        yield process.pid
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def gate(socket: Path, names: Mapping[str, str]) -> Iterator[str]:
    """Run a gate in front of vLLM; yield its address. names: public name → internal name."""
    port = free_port()
    given = [f"{name}={internal}" for name, internal in names.items()]
    words = ["taskset", "-c", str(OTHER_CORE), sys.executable, "-m", "bench.endpoint.gate"]
    process = subprocess.Popen(
        [*words, str(socket), str(port), *given],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=REPOSITORY,
    )
    try:
        _wait(lambda: _listens(port), process, None)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def resident(groups: Sequence[int]) -> int:
    """Return the bytes of memory of process groups; shared pages count once (PSS)."""
    total = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError, ValueError):
            if os.getpgid(int(entry.name)) in groups:
                fields = (entry / "smaps_rollup").read_text().split()
                total += int(fields[fields.index("Pss:") + 1]) << 10
    return total


def _accepts(path: Path) -> bool:
    """Report whether vLLM accepts connections; it makes the file earlier."""
    with sockets.socket(sockets.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def _listens(port: int) -> bool:
    tables = (Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6"))
    return any(f":{port:04X} 0" in text for text in tables)


def _wait(is_there: Any, process: "subprocess.Popen[bytes]", log: Path | None) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_there():
        if process.poll() is not None or time.monotonic() > deadline:
            text = "" if log is None else log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"a server did not start:\n{text}")
        time.sleep(0.1)
