"""The verifier with a small real server: it accepts correct builds and detects each fault."""

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import aiohttp
import peft
import pytest
import torch
from tests.support.trainer import tiny
from tests.support.trainer.logits import load
from tests.support.trainer.vllm import Served, serving
from tests.support.trainer.workshop import Workshop
from tests.trainer.conftest import MakeWorkshop

from finetune_api.contracts.reference import FILE, FOLDER, Reference
from finetune_trainer.checkpointing import manifest
from finetune_trainer.volume.files import sha256_of
from finetune_verify import __main__ as verify
from finetune_verify.comparing.statistics import rms
from finetune_verify.errors import Mismatch
from finetune_verify.verification import Verdict

Change = Callable[[Served], None]


def served(
    workshop: Workshop, build: str = "b1", *, dtype: torch.dtype = torch.float32, factor: float = 0
) -> Served:
    """Return a server of a build; ``factor`` adds the adapter another ``factor`` times."""
    folder = workshop.work / f"merged-{build}"
    model = load(folder, dtype=torch.float32)
    if factor:
        model = peft.PeftModel.from_pretrained(model, workshop.work / "adapter")
        for module in model.modules():
            if isinstance(module, peft.tuners.lora.LoraLayer):
                module.scaling = {name: each * factor for name, each in module.scaling.items()}
        model = model.merge_and_unload()
    return Served(model=model.to(dtype).eval(), tokenizer=tiny.tokenizer())


def digests(workshop: Workshop, served: str) -> dict[str, str]:
    """Return the arguments with the digests that the ledger contains."""
    folders = {"served": served, "adapter": "adapter", "reference": FOLDER}
    return {
        f"--{name}-manifest": sha256_of(workshop.work / folder / manifest.FILE)
        for name, folder in folders.items()
        if (workshop.work / folder / manifest.FILE).is_file()
    }


def command_line(
    workshop: Workshop, url: str, port: int, *, build: str = "b1", **options: str
) -> argparse.Namespace:
    served = "base" if options.get("mode") == "adapter" else f"merged-{build}"
    arguments = {
        "--work": str(workshop.work),
        **digests(workshop, served),
        "--revision": workshop.job["digest"],
        "--build": build,
        "--model": "tiny",
        "--endpoint": url,
        "--port": str(port),
        **{f"--{name}": value for name, value in options.items()},
    }
    return verify.parser().parse_args([word for each in arguments.items() for word in each])


async def verified(
    workshop: Workshop, server: Served, port: int, *, build: str = "b1", **options: str
) -> Verdict:
    """Run the verification until it is ready. Raises Mismatch."""
    async with serving(server) as url:
        stop = asyncio.Event()
        arguments = command_line(workshop, url, port, build=build, **options)
        running = asyncio.create_task(verify.run(arguments, stop))
        try:
            async with aiohttp.ClientSession() as session:
                while not running.done():
                    status, text = await get(session, f"http://127.0.0.1:{port}/readyz")
                    if status == 200:
                        _, metrics = await get(session, f"http://127.0.0.1:{port}/metrics")
                        return read(metrics, text)
                    await asyncio.sleep(0.02)
        finally:
            stop.set()
            await running
        raise AssertionError("it ended without a verdict")


async def get(session: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    try:
        async with session.get(url) as response:
            return response.status, await response.text()
    except aiohttp.ClientError:
        return 0, ""


def read(metrics: str, message: str) -> Verdict:
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    outcomes = [
        outcome
        for outcome in ("Verified", "Inconclusive", "Skipped")
        if float(values[f'finetune_verify_outcome{{outcome="{outcome}"}}']) == 1
    ]
    assert len(outcomes) == 1
    seconds, answering = (
        float(values[f"finetune_verify_{which}"]) for which in ("seconds", "server_seconds")
    )
    assert 0 <= answering <= seconds
    return Verdict(
        outcome=outcomes[0],  # type: ignore[arg-type]
        message=message,
        distance=float(values["finetune_verify_distance"]),
        tolerance=float(values["finetune_verify_tolerance"]),
    )


@pytest.fixture(scope="module")
def builds(
    done: Workshop, tmp_path_factory: pytest.TempPathFactory, make: MakeWorkshop
) -> Workshop:
    """The completed job with one build per merge mode."""
    work = tmp_path_factory.mktemp("builds") / "work"
    shutil.copytree(done.work, work)
    workshop = make(work=work)
    for base in ("dequantized", "original"):
        for dtype in ("float16", "bfloat16"):
            build = f"{base}-{dtype}"
            workshop.succeed("merge", build=build, dtype=dtype, base=base)
    return workshop


@pytest.mark.parametrize("computed", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("weights", ["float16", "bfloat16"])
@pytest.mark.parametrize("base", ["dequantized", "original"])
async def test_correct_merged_build_is_verified(
    builds: Workshop, unused_port: int, base: str, weights: str, computed: str
) -> None:
    build = f"{base}-{weights}"
    server = served(builds, build, dtype=getattr(torch, computed))
    verdict = await verified(builds, server, unused_port, build=build, dtype=computed)
    assert verdict.outcome == "Verified", verdict
    assert verdict.distance is not None
    assert verdict.tolerance is not None
    assert 0 < verdict.distance < verdict.tolerance


async def test_correct_adapter_build_is_verified(builds: Workshop, unused_port: int) -> None:
    base = load(builds.work / "base", dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, builds.work / "adapter").eval()
    server = Served(model=model, tokenizer=tiny.tokenizer())
    verdict = await verified(builds, server, unused_port, mode="adapter", dtype="float32")
    assert verdict.outcome == "Verified", verdict
    layers = [each for each in model.modules() if isinstance(each, peft.tuners.lora.LoraLayer)]
    usual = layers[0].scaling["default"]
    for factor in (0.0, 0.5, 2.0):
        for layer in layers:
            layer.scaling["default"] = factor * usual
        with pytest.raises(Mismatch, match="not the tuned model"):
            await verified(builds, server, unused_port, mode="adapter", dtype="float32")


@pytest.mark.parametrize("computed", ["float32", "bfloat16"])
async def test_base_that_gets_the_adapter_while_the_adapter_decodes_is_detected(
    builds: Workshop, unused_port: int, computed: str
) -> None:
    base = load(builds.work / "base", dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, builds.work / "adapter")
    server = Served(
        model=model.to(getattr(torch, computed)).eval(), tokenizer=tiny.tokenizer(), base="acme"
    )
    options = {"mode": "adapter", "dtype": computed}
    verdict = await verified(builds, server, unused_port, **options)
    assert "8 tokens of the base model agree while the adapter decodes" in verdict.message
    server.mixes = True
    with pytest.raises(Mismatch, match=r"while the adapter decodes, the server answers .* acme"):
        await verified(builds, server, unused_port, **options)


def change_reference(workshop: Workshop, change: Callable[[Any], Any]) -> None:
    """Publish the reference of a volume again after a change."""
    final, scratch = workshop.work / FOLDER, workshop.work / "changed"
    found = manifest.read(final)
    final.rename(scratch)
    document = json.loads((scratch / FILE).read_text())
    change(document)
    (scratch / FILE).write_text(json.dumps(document))
    manifest.publish(scratch, final, kind=found.kind, key=found.key, facts=found.facts)


def zero(name: str) -> Change:
    def change(server: Served) -> None:
        server.model.get_parameter(name).data.zero_()

    return change


@pytest.mark.parametrize(
    "factor",
    [-1.0, -0.5, -0.1, 0.1, 1.0],
    ids=["base", "half its scale", "0.9 of its scale", "1.1 of its scale", "twice"],
)
@pytest.mark.parametrize("computed", ["float32", "bfloat16"])
async def test_wrong_adapter_scale_is_detected(
    done: Workshop, unused_port: int, factor: float, computed: str
) -> None:
    server = served(done, factor=factor, dtype=getattr(torch, computed))
    with pytest.raises(Mismatch, match=r"not the tuned model: .*distance .* nats over"):
        await verified(done, server, unused_port, dtype=computed)


async def test_wrong_decoding_is_detected(done: Workshop, unused_port: int) -> None:
    """The scores of prompts are right, but generated tokens have other log-probabilities."""
    server = served(done)
    verdict = await verified(done, server, unused_port)
    assert "16 generated tokens agree" in verdict.message

    def flatter(logits: torch.Tensor) -> None:
        logits *= 0.8

    server.decoding = flatter
    with pytest.raises(Mismatch, match="generates tokens with other log-probabilities than"):
        await verified(done, server, unused_port)


async def test_wrong_scores_after_long_prompts_are_detected(
    done: Workshop, unused_port: int
) -> None:
    """Positions of the other rows are right."""
    server = served(done)
    server.max_model_len = 2048
    verdict = await verified(done, server, unused_port)
    found = Reference.model_validate_json((done.work / FOLDER / FILE).read_bytes())
    assert found.long_row is not None
    longest = len(found.long_row.ids)
    assert longest > max(len(row.ids) for row in found.rows)
    assert f"after prompts of up to {longest - 1} tokens agree" in verdict.message
    server.max_model_len = 528
    assert "long prompts were not compared" in (await verified(done, server, unused_port)).message

    server.max_model_len = 2048
    rotary = server.model.model.rotary_emb
    computed = rotary.forward

    def limited(hidden: torch.Tensor, position_ids: torch.Tensor) -> Any:
        return computed(hidden, position_ids.clamp(max=511))

    rotary.forward = limited
    with pytest.raises(Mismatch, match="not the tuned model after long prompts"):
        await verified(done, server, unused_port)


async def test_reference_without_a_long_row_is_verified(
    done: Workshop, make: MakeWorkshop, tmp_path: Path, unused_port: int
) -> None:
    """References of earlier releases have none."""
    shutil.copytree(done.work, tmp_path / "work")
    copy = make(work=tmp_path / "work")
    change_reference(copy, lambda document: document.pop("longRow"))
    verdict = await verified(copy, served(done), unused_port)
    assert verdict.outcome == "Verified"
    assert "long prompts were not compared" in verdict.message


async def test_untuned_base_is_detected(done: Workshop, unused_port: int) -> None:
    model = load(done.work / "base", dtype=torch.float32)
    with pytest.raises(Mismatch, match="not the tuned model"):
        await verified(done, Served(model=model, tokenizer=tiny.tokenizer()), unused_port)


async def test_previous_revision_is_detected(
    done: Workshop, make: MakeWorkshop, unused_port: int
) -> None:
    before = make(training={"seed": 1, "maxSteps": 5})
    before.prepare_and_train()
    before.succeed("merge", build="b1")
    with pytest.raises(Mismatch, match="not the tuned model"):
        await verified(done, served(before), unused_port)
    # The folder of the previous revision, mounted instead of the target's folder.
    before.write(done.job)
    with pytest.raises(Mismatch, match="belongs to revision"):
        await verified(before, served(before), unused_port)


@pytest.mark.parametrize(
    "name", ["model.layers.0.mlp.down_proj.weight", "model.layers.1.self_attn.v_proj.weight"]
)
async def test_zeroed_tensor_is_detected(done: Workshop, unused_port: int, name: str) -> None:
    server = served(done)
    zero(name)(server)
    with pytest.raises(Mismatch, match="not the tuned model"):
        await verified(done, server, unused_port)


@pytest.mark.parametrize("folder", ["merged-b1", FOLDER])
async def test_single_changed_bit_is_detected(
    done: Workshop, make: MakeWorkshop, tmp_path: Path, unused_port: int, folder: str
) -> None:
    shutil.copytree(done.work, tmp_path / "work")
    copy = make(work=tmp_path / "work")
    path = max((copy.work / folder).glob("*"), key=lambda each: each.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    server = served(done)
    with pytest.raises(Mismatch, match=f"{folder}/{path.name} has SHA-256"):
        await verified(copy, server, unused_port)
    assert "/v1/completions" not in server.asked


async def test_different_tokenizer_is_detected(done: Workshop, unused_port: int) -> None:
    server = served(done)
    vocabulary = json.loads(server.tokenizer.backend_tokenizer.to_str())
    ids = vocabulary["model"]["vocab"]
    ids["a"], ids["e"] = ids["e"], ids["a"]
    server.tokenizer = type(server.tokenizer)(
        tokenizer_object=type(server.tokenizer.backend_tokenizer).from_str(json.dumps(vocabulary)),
        chat_template=tiny.CHAT_TEMPLATE,
    )
    with pytest.raises(Mismatch, match="differently than training did, starting at token"):
        await verified(done, server, unused_port)


async def test_different_chat_template_is_detected(done: Workshop, unused_port: int) -> None:
    server = served(done)
    server.template = tiny.CHAT_TEMPLATE.replace("assistant\n", "assistant\n\n")
    with pytest.raises(Mismatch, match="the tokenizer or the chat template differs"):
        await verified(done, server, unused_port)


async def test_rows_without_a_request_are_still_scored(
    done: Workshop, make: MakeWorkshop, tmp_path: Path, unused_port: int
) -> None:
    """Rows with tool calls, for example, give no request; the message reports this."""
    shutil.copytree(done.work, tmp_path / "work")
    copy = make(work=tmp_path / "work")

    def drop_requests(document: Any) -> None:
        for row in document["rows"]:
            row |= {"messages": None, "text": None, "promptIds": None}

    change_reference(copy, drop_requests)
    verdict = await verified(copy, served(done), unused_port)
    assert verdict.outcome == "Verified"
    assert "no reference row can be sent as a request" in verdict.message
    assert "no row" not in (await verified(done, served(done), unused_port)).message


async def test_model_that_learned_nothing_is_inconclusive(
    make: MakeWorkshop, unused_port: int
) -> None:
    workshop = make(training={"maxSteps": 1, "learningRate": 1e-7})
    workshop.prepare_and_train()
    workshop.succeed("merge", build="b1")
    verdict = await verified(workshop, served(workshop), unused_port)
    assert verdict.outcome == "Inconclusive"
    assert "rounding could hide the loss of 0.1 of the effect" in verdict.message


async def test_volume_without_a_reference_is_skipped(
    done: Workshop, make: MakeWorkshop, tmp_path: Path, unused_port: int
) -> None:
    shutil.copytree(done.work, tmp_path / "work")
    copy = make(work=tmp_path / "work")
    shutil.rmtree(copy.work / FOLDER)
    verdict = await verified(copy, served(done), unused_port)
    assert verdict.outcome == "Skipped"
    shard = next((copy.work / "merged-b1").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(Mismatch, match="bytes instead of"):
        await verified(copy, served(done), unused_port)


async def test_slow_and_failing_server_is_verified_later(done: Workshop, unused_port: int) -> None:
    server = served(done)
    server.starting, server.broken = 2, 1
    verdict = await verified(done, server, unused_port)
    assert verdict.outcome == "Verified"


async def test_restarted_server_is_verified_again(
    done: Workshop, unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "WATCH_SECONDS", 0.02)
    server = served(done)
    async with serving(server) as url, aiohttp.ClientSession() as session:
        arguments = command_line(done, url, unused_port)
        running = asyncio.create_task(verify.run(arguments, asyncio.Event()))
        status = 0
        while status != 200:
            assert not running.done()
            status, _ = await get(session, f"http://127.0.0.1:{unused_port}/readyz")
            await asyncio.sleep(0.02)
        server.model, server.starting = load(done.work / "base", dtype=torch.float32), 2
        with pytest.raises(Mismatch, match="not the tuned model"):
            await asyncio.wait_for(running, 60)


async def ready(session: aiohttp.ClientSession, port: int, running: asyncio.Task[None]) -> None:
    status = 0
    while status != 200:
        assert not running.done()
        status, _ = await get(session, f"http://127.0.0.1:{port}/readyz")
        await asyncio.sleep(0.02)


def shard_of(workshop: Workshop) -> Path:
    return next((workshop.work / "merged-b1").glob("*.safetensors"))


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


async def test_files_are_compared_again_after_a_restart(
    done: Workshop,
    make: MakeWorkshop,
    tmp_path: Path,
    unused_port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Scores show neither one changed weight nor another configuration."""
    monkeypatch.setattr(verify, "WATCH_SECONDS", 0.02)
    shutil.copytree(done.work, tmp_path / "work")
    copy = make(work=tmp_path / "work")
    server = served(done)
    async with serving(server) as url, aiohttp.ClientSession() as session:
        running = asyncio.create_task(
            verify.run(command_line(copy, url, unused_port), asyncio.Event())
        )
        await ready(session, unused_port, running)
        flip_a_bit(shard_of(copy))
        await asyncio.sleep(0.2)
        assert not running.done(), "vLLM does not read the files again until it restarts"
        server.starting = 2
        with pytest.raises(Mismatch, match=r"merged-b1/.*\.safetensors has SHA-256"):
            await asyncio.wait_for(running, 60)


@pytest.mark.parametrize("recorded", [True, False], ids=["reference", "no reference"])
async def test_file_that_is_replaced_while_vllm_starts_is_detected(
    done: Workshop, make: MakeWorkshop, tmp_path: Path, unused_port: int, recorded: bool
) -> None:
    """The digests were computed before, so only the file itself shows it."""
    shutil.copytree(done.work, tmp_path / "work")
    copy = make(work=tmp_path / "work")
    if not recorded:
        shutil.rmtree(copy.work / FOLDER)
    server = served(done)
    server.starting = 1_000_000
    async with serving(server) as url, aiohttp.ClientSession() as session:
        running = asyncio.create_task(
            verify.run(command_line(copy, url, unused_port), asyncio.Event())
        )
        text = ""
        while "vLLM to become healthy" not in text:
            assert not running.done()
            _, text = await get(session, f"http://127.0.0.1:{unused_port}/readyz")
            await asyncio.sleep(0.02)
        flip_a_bit(shard_of(copy))
        server.starting = 0
        with pytest.raises(Mismatch, match=r"merged-b1/.*\.safetensors has SHA-256"):
            await asyncio.wait_for(running, 60)


async def test_server_with_a_short_maximum_length_is_verified(
    done: Workshop, unused_port: int
) -> None:
    server = served(done)
    server.max_model_len = 56
    verdict = await verified(done, server, unused_port)
    assert verdict.outcome == "Verified"


async def test_api_key_is_sent(
    done: Workshop, unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = served(done)
    server.key = "secret"
    with pytest.raises(Mismatch, match="with HTTP 401") as refused:
        await verified(done, server, unused_port)
    assert "Refused" not in str(refused.value), "no word of a row leaves the volume"
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    assert (await verified(done, server, unused_port)).outcome == "Verified"


async def test_verifier_process_serves_readiness_and_exits_on_mismatch(
    done: Workshop, unused_port: int, tmp_path: Path
) -> None:
    """Exit code and message of a mismatch, and SIGTERM while the verifier waits."""
    message = tmp_path / "message"

    async def start(url: str) -> asyncio.subprocess.Process:
        words = [sys.executable, "-m", "finetune_verify", "--revision", done.job["digest"]]
        words += ["--work", str(done.work), "--build", "b1", "--model", "tiny"]
        words += ["--endpoint", url, "--port", str(unused_port)]
        words += chain.from_iterable(digests(done, "merged-b1").items())
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "FINETUNE_TERMINATION_LOG": str(message),
        }
        return await asyncio.create_subprocess_exec(
            *words, env=environment, stderr=asyncio.subprocess.PIPE
        )

    async with serving(served(done, factor=1.0)) as url:
        process = await start(url)
        _, log = await process.communicate()
    assert process.returncode == 83, log.decode()
    result = json.loads(message.read_text())
    assert (result["stage"], result["outcome"]) == ("verify", "failed")
    assert result["reason"] == "VerificationFailed"
    assert "tolerance" in result["message"]

    process = await start("http://127.0.0.1:9")
    async with aiohttp.ClientSession() as session:
        status = 0
        while status != 503:
            status, _ = await get(session, f"http://127.0.0.1:{unused_port}/readyz")
            await asyncio.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, log = await process.communicate()
    assert process.returncode == 0, log.decode()


@pytest.mark.parametrize("saved", [None, ["embed_tokens", "lm_head"]], ids=str)
def test_reference_equals_scores_of_the_trained_model(
    done: Workshop, make: MakeWorkshop, saved: list[str] | None
) -> None:
    """The libraries compute base and tuned model on the 4-bit base and on the published base."""
    from tests.support.trainer.logits import quantized_base

    if saved is not None:
        done = make(training={"lora": {"modulesToSave": saved}})
        done.prepare_and_train()
    found = Reference.model_validate_json((done.work / FOLDER / FILE).read_bytes())
    assert not found.held_out
    assert found.tokens >= 150

    def scores(model: Any, row: Any) -> list[float]:
        with torch.no_grad():
            logits = model(torch.tensor([row.ids])).logits[0].float().log_softmax(-1)
        return [float(logits[at - 1, row.ids[at]]) for at in row.positions]

    for kind in ("original", "dequantized"):
        base = (
            load(done.work / "base", dtype=torch.float32)
            if kind == "original"
            else quantized_base(done)
        )
        # bitsandbytes does not round weights to bfloat16 when it computes in float32.
        error = 1e-4 if kind == "original" else 2e-3
        # The base computes in bfloat16.
        rounding = 0.05
        for row in found.rows[:3]:
            own = row.original if kind == "original" else row.dequantized
            assert own.base == pytest.approx(scores(base, row), abs=rounding)
        tuned = peft.PeftModel.from_pretrained(base, done.work / "adapter").eval()
        for row in found.rows[:3]:
            own = row.original if kind == "original" else row.dequantized
            assert own.tuned == pytest.approx(scores(tuned, row), abs=error)
            assert rms([a - b for a, b in zip(own.tuned, own.base, strict=True)]) > 0.1


def test_reference_is_recorded_after_a_kill(
    done: Workshop, make: MakeWorkshop, tmp_path: Path
) -> None:
    shutil.copytree(done.work, tmp_path / "work")
    copy = make(work=tmp_path / "work")
    before = (copy.work / FOLDER / FILE).read_bytes()
    shutil.rmtree(copy.work / FOLDER)
    ended = copy.succeed("train")
    assert ended.message == "the adapter is already trained"
    assert (copy.work / FOLDER / FILE).read_bytes() == before
    assert manifest.valid(copy.work / FOLDER, kind="reference", key=None)
    assert "recorded the reference in" in ended.log
