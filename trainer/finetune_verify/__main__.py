"""``python -m finetune_verify``: verifies that vLLM in this pod serves the trained model.

``/readyz`` answers 200 after a successful verification. The process then watches vLLM and verifies
it again after each restart. A mismatch ends the process with exit code 83 and a termination message
with the numbers. An API key that no request can carry ends it with exit code 77. SIGTERM ends it
with 0.
"""

import argparse
import asyncio
import os
import sys
import time
from functools import partial
from pathlib import Path

import aiohttp
from aiohttp import web

from finetune_api.contracts.exitcodes import ExitCode
from finetune_api.contracts.ports import VERIFIER_METRICS
from finetune_api.contracts.reference import Reference
from finetune_api.safety import credentials, redaction
from finetune_verify import build, volume
from finetune_verify.errors import InvalidKey, Mismatch, Unavailable
from finetune_verify.process import failed, log, until_stopped
from finetune_verify.server import State, application
from finetune_verify.verification import SKIPPED, Verdict, score
from finetune_verify.vllm_client import VllmClient

DESCRIPTION = (
    "Verify that vLLM in this pod serves the trained model, and verify it again after each restart "
    "of vLLM. A mismatch ends the process with exit code 83."
)
WATCH_SECONDS = 5.0
"""Interval of health checks of a verified server. A start takes longer, so no restart is missed."""
REQUESTS_SECONDS = 15.0
"""Interval of the reads of vLLM's metrics, which show whether clients send requests."""
RETRY_SECONDS = 1.0
"""Pause after vLLM stopped answering during the comparison."""


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    made = argparse.ArgumentParser(prog="finetune_verify", description=DESCRIPTION)
    made.add_argument("--work", type=Path, required=True, help="root folder of the volume")
    made.add_argument("--revision", required=True, help="digest of the served revision, in hex")
    made.add_argument("--build", required=True, help="name of the served build")
    made.add_argument(
        "--served-manifest",
        required=True,
        help="SHA-256 of manifest.json in the folder of the served model, in hex; this folder is "
        "base/ with --mode adapter, and merged-<build>/ otherwise",
    )
    made.add_argument(
        "--adapter-manifest", required=True, help="SHA-256 of adapter/manifest.json, in hex"
    )
    made.add_argument(
        "--reference-manifest",
        help="SHA-256 of reference/manifest.json, in hex; omit it only if the training recorded no "
        "reference",
    )
    made.add_argument("--model", required=True, help="name of the served model")
    made.add_argument(
        "--mode", choices=("merged", "adapter"), default="merged", help="value of serving.mode"
    )
    made.add_argument("--endpoint", default="http://127.0.0.1:8000", help="base URL of vLLM")
    made.add_argument(
        "--port", type=int, default=VERIFIER_METRICS, help="port of /readyz and /metrics"
    )
    made.add_argument(
        "--dtype",
        choices=("auto", "float16", "bfloat16", "float32"),
        default="auto",
        help="number format in which vLLM computes; auto: the number format of the weights, or "
        "bfloat16 if the weights are in float32",
    )
    return made


async def run(options: argparse.Namespace, stop: asyncio.Event) -> None:
    """Serve, verify and watch until ``stop`` is set. Raise Mismatch or InvalidKey."""
    key = _api_key()
    state = State()
    runner = web.AppRunner(application(state), access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        await web.TCPSite(runner, port=options.port).start()
        async with aiohttp.ClientSession(headers=headers) as session:
            vllm = VllmClient(session, options.endpoint, options.model)
            work = asyncio.create_task(_verify_and_watch(options, vllm, state))
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if not work.done():
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
                return
            await work
    finally:
        await runner.cleanup()


async def _verify_and_watch(options: argparse.Namespace, vllm: VllmClient, state: State) -> None:
    served = build.find(
        options.work,
        build.RecordedDigests(
            served=options.served_manifest,
            adapter=options.adapter_manifest,
            reference=options.reference_manifest,
        ),
        revision=options.revision,
        build=options.build,
        mode=options.mode,
        dtype=options.dtype,
    )
    recorded = options.reference_manifest is not None
    while True:
        # Read the files while vLLM loads them, so that both share one read from disk.
        checked = await _check_digests(served, state)
        reference = volume.read_reference(options.work) if recorded else None
        state.wait_for("vLLM to become healthy")
        await vllm.wait()
        state.wait_for("the comparison with the reference")
        began, answering = time.monotonic(), vllm.answering
        try:
            verdict = await _verdict(vllm, reference, served)
            # vLLM may have loaded files that were replaced after their digests were computed.
            await volume.require_unchanged(served.folders, checked)
        except Unavailable as error:
            log(
                f"vLLM stopped answering during the comparison ({error}): the comparison starts "
                "again when vLLM is healthy"
            )
            await asyncio.sleep(RETRY_SECONDS)
            continue
        seconds, answering = time.monotonic() - began, vllm.answering - answering
        state.agreed(verdict, seconds, answering=answering)
        log(
            f"{verdict.outcome} in {seconds:.2f} s, of which vLLM took {answering:.2f} s to "
            f"answer: {verdict.message}"
        )
        await _watch(vllm, state)
        # A restart loads the files again, which may have been replaced meanwhile.
        log("vLLM stopped answering; the digests and the reference are compared again")


async def _watch(vllm: VllmClient, state: State) -> None:
    """Count the requests of clients until vLLM stops answering."""
    counting = asyncio.create_task(_count_requests(vllm, state))
    try:
        await vllm.watch(WATCH_SECONDS)
    finally:
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)


async def _count_requests(vllm: VllmClient, state: State) -> None:
    while True:
        state.requests.observe(await vllm.metrics())
        await asyncio.sleep(REQUESTS_SECONDS)


async def _check_digests(served: build.Build, state: State) -> list[volume.Checked]:
    began = time.monotonic()
    size = sum(entry["size"] for folder in served.folders for entry in folder.files)
    state.wait_for("the digests of the files")
    state.begin(size)
    checked = await volume.check_digests(served.folders, state.read)
    log(f"checked the digests of {size / 2**20:.0f} MiB in {time.monotonic() - began:.1f} s")
    return checked


async def _verdict(vllm: VllmClient, reference: Reference | None, served: build.Build) -> Verdict:
    return SKIPPED if reference is None else await score(vllm, reference, served)


def _api_key() -> str | None:
    """Return the key of the endpoint, None if it needs none. Raise InvalidKey.

    vLLM compares the bearer token of a request with the whole value. Surrounding white space is
    therefore an error: no request can carry it.
    """
    key = os.environ.get("VLLM_API_KEY")
    if key is None:
        return None
    try:
        field = "serving.apiKeySecretRef"
        return credentials.checked(key, what="the API key", field=field, strip=False)
    except credentials.InvalidCredential as error:
        raise InvalidKey(str(error)) from None


def main(arguments: list[str]) -> int:
    """Run until the end and return the exit code."""
    redaction.install()
    try:
        asyncio.run(until_stopped(partial(run, parser().parse_args(arguments))))
    except Mismatch as mismatch:
        return failed(ExitCode.VERIFICATION_FAILED, str(mismatch))
    except InvalidKey as invalid:
        return failed(ExitCode.ACCESS_DENIED, str(invalid))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
