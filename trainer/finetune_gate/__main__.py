"""``python -m finetune_gate``: serve the proved adapters of a shared endpoint.

The process ends with 0 on SIGTERM, and with exit code 83 if the base of the endpoint is not the
published one. A faulty adapter never ends it.
"""

import argparse
import asyncio
import os
import sys
from functools import partial
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry

from finetune_api.contracts.endpoint import EndpointStatus
from finetune_api.contracts.exitcodes import ExitCode
from finetune_api.contracts.ports import GATE, POD_UID_VARIABLE, VERIFIER_METRICS
from finetune_api.safety import redaction
from finetune_gate import key_files, server
from finetune_gate.adapters import copy as adapters
from finetune_gate.engine import Engine
from finetune_gate.proofs import proof
from finetune_gate.queue.fairness import Fairness
from finetune_gate.queue.places import Places
from finetune_gate.report import Report
from finetune_gate.requests.proxy import Proxy
from finetune_gate.rollout import EndpointSettings, Rollout
from finetune_gate.usage import Usage
from finetune_gate.wanted import Wanted, public_key
from finetune_verify.errors import Mismatch
from finetune_verify.process import failed, log, until_stopped

DESCRIPTION = "Serve the proved adapters of a shared endpoint."
READ_SECONDS = 1.0
"""Interval in which the file of the wanted set is read. The kubelet replaces it."""
KEYS_SECONDS = 10.0
"""Interval in which the keys are read."""
RECORD = "sequence"


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    made = argparse.ArgumentParser(prog="finetune_gate", description=DESCRIPTION)
    add = made.add_argument
    add("--endpoint", required=True, help="uid of the FineTuneEndpoint")
    add(
        "--public-key",
        type=public_key,
        required=True,
        help="public key of the operator, in PEM format",
    )
    add(
        "--min-sequence",
        type=int,
        required=True,
        help="sequence number of the wanted set when this pod was made; no lower one is accepted",
    )
    add("--wanted", type=Path, required=True, help="file of the signed wanted set")
    add(
        "--keys", type=Path, help="folder with the API keys of each job; without it, none is needed"
    )
    add("--socket", type=Path, required=True, help="Unix socket of vLLM")
    add("--claim", type=Path, required=True, help="the endpoint's claim, mounted read-only")
    add("--copies", type=Path, required=True, help="folder of the copies, which vLLM mounts too")
    add("--base", type=Path, required=True, help="folder of the base that vLLM serves")
    add("--base-manifest", required=True, help="SHA-256 of its manifest.json, in hex")
    add("--base-kind", choices=("dequantized", "original"), required=True)
    add("--base-name", required=True, help="name under which vLLM serves the base")
    add("--dtype", choices=("float16", "bfloat16", "float32"), required=True)
    add("--modules", nargs="+", required=True, help="value of vLLM's --lora-target-modules")
    add("--max-rank", type=int, required=True, help="lora.maxRank")
    add("--max-adapters", type=int, required=True, help="lora.maxAdapters")
    add("--max-active", type=int, required=True, help="lora.maxActive; vLLM has one slot more")
    add("--capacity", type=int, required=True, help="value of vLLM's --max-num-seqs")
    add("--max-wait", type=float, default=10.0, help="longest wait for a place, in seconds")
    add("--longest-queue", type=int, default=256, help="requests of one name that may wait")
    add("--port", type=int, default=GATE, help="port for callers")
    add("--operator-port", type=int, default=VERIFIER_METRICS, help="port of probes and status")
    return made


async def run(options: argparse.Namespace, stop: asyncio.Event) -> None:
    """Serve until ``stop`` is set. Raise Mismatch if the base is another one."""
    base = adapters.base(
        options.base,
        sha256=options.base_manifest,
        kind=options.base_kind,
        modules=options.modules,
        max_rank=options.max_rank,
    )
    options.copies.mkdir(parents=True, exist_ok=True)
    wanted = Wanted(
        options.public_key,
        endpoint=options.endpoint,
        record=options.copies / RECORD,
        least=options.min_sequence,
        keys=None if options.keys is None else {},
    )
    registry = CollectorRegistry()
    usage = Usage(registry)
    places = Places(
        Fairness(
            max_active=options.max_active,
            capacity=options.capacity,
            max_wait=options.max_wait,
            longest=options.longest_queue,
        )
    )
    engine = Engine(options.socket, base=options.base_name, place=places.place)
    rollout = Rollout(
        engine,
        places,
        wanted,
        EndpointSettings(
            base=base,
            build=proof.served(base, options.dtype),
            claim=options.claim,
            copies=options.copies,
            max_adapters=options.max_adapters,
            max_active=options.max_active,
        ),
        usage=usage,
        log=log,
    )
    report = Report(
        rollout,
        wanted,
        usage,
        max_adapters=options.max_adapters,
        pod=os.environ.get(POD_UID_VARIABLE, ""),
    )

    def now() -> EndpointStatus:
        return report.status(engine.boot())

    registry.register(server.NameCollector(now))
    proxy = Proxy(engine, places, usage, rollout)
    # A caller that leaves cancels its handler, which ends the request to vLLM.
    callers = web.AppRunner(
        server.for_callers(proxy),
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=server.IDLE_SECONDS,
        shutdown_timeout=30,
    )
    operator = web.AppRunner(
        server.for_operator(engine, rollout, wanted, now, registry),
        access_log=None,
        shutdown_timeout=0.2,
    )
    tasks = [
        asyncio.create_task(rollout.run(), name="rollout"),
        asyncio.create_task(_read(options.wanted, wanted, rollout), name="wanted set"),
        *(
            [asyncio.create_task(_read_keys(options.keys, wanted, rollout), name="keys")]
            if options.keys is not None
            else []
        ),
        asyncio.create_task(stop.wait(), name="stop"),
    ]
    try:
        await callers.setup()
        await web.SockSite(callers, server.listening(options.port)).start()
        await operator.setup()
        await web.TCPSite(operator, port=options.operator_port).start()
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await callers.cleanup()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await operator.cleanup()
        await engine.close()


async def _read(path: Path, wanted: Wanted, rollout: Rollout) -> None:
    """Offer the file of the wanted set whenever it changes."""
    last = b""
    while True:
        try:
            content = await asyncio.to_thread(path.read_bytes)
        except OSError:
            content = b""
        if content != last:
            last = content
            if content and wanted.offer(content):
                rollout.wanted_changed()
            elif wanted.refused:
                log(wanted.refused)
        await asyncio.sleep(READ_SECONDS)


async def _read_keys(folder: Path, wanted: Wanted, rollout: Rollout) -> None:
    """Use the keys of the jobs whenever they change."""
    while True:
        keys = await asyncio.to_thread(key_files.read, folder)
        if wanted.use_keys(keys):
            log(key_files.counted(keys))
            rollout.wanted_changed()
        await asyncio.sleep(KEYS_SECONDS)


def main(arguments: list[str]) -> int:
    """Run until the end and return the exit code."""
    redaction.install()
    try:
        asyncio.run(until_stopped(partial(run, parser().parse_args(arguments))))
    except Mismatch as error:
        return failed(ExitCode.VERIFICATION_FAILED, str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
