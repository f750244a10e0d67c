"""A gate and the fake vLLM: a name answers with the trained adapter, or not at all."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.fakes import vllm_server
from tests.fakes.vllm_server import Faults
from tests.support.gate import gate as gates
from tests.support.gate.gate import Gate, running

from finetune_api.contracts.endpoint import NameStatus, WantedName
from finetune_gate.engine import running as parsed
from finetune_gate.proofs import proof
from finetune_verify import verification


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[Gate]:
    async with running(tmp_path) as found:
        yield found


def is_failed(status: NameStatus) -> bool:
    return status.state == "Failed"


def again(wanted: WantedName) -> WantedName:
    """Let the job ask for its second attempt."""
    return wanted.model_copy(update={"attempt": 2})


class Held:
    """The proof of one adapter waits for its turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, wanted: WantedName) -> None:
        self.reached, self.turn, self.ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._prove, self._adapter = proof.prove, wanted.adapter
        monkeypatch.setattr(proof, "prove", self._hold)

    async def _hold(self, engine: Any, place: Any, subject: Any, *rest: Any) -> Any:
        if not subject.internal.startswith(self._adapter):
            return await self._prove(engine, place, subject, *rest)
        self.reached.set()
        await self.turn.wait()
        try:
            return await self._prove(engine, place, subject, *rest)
        finally:
            self.ended.set()


def answer(body: dict[str, Any]) -> str:
    return str(body["choices"][0]["message"]["content"])


async def test_two_jobs_share_one_engine(gate: Gate) -> None:
    first, second = gate.claim.add("acme/first"), gate.claim.add("second", template=None)
    await gate.serves(first, second)
    for wanted in (first, second):
        status, body = await gate.chat(wanted.name)
        assert (status, body["model"]) == (200, wanted.name)
        assert answer(body) == gate.claim.seed(wanted)
    sent = [each for each in gate.vllm.requests if "messages" in each]
    assert [each.get("chat_template") for each in sent] == ["template of the job", None]
    seen = await gate.status()
    assert (seen.sequence, seen.refused, seen.free) == (1, None, 2)
    assert seen.self_test is not None
    assert seen.self_test.startswith("the base agrees while an adapter decodes")
    assert not seen.self_test_failed
    for name in seen.names:
        assert (name.state, name.outcome, name.boot) == ("Serving", "Verified", seen.boot)
        assert name.answers == name.adapter
        assert name.distance is not None
        assert name.tolerance is not None
        assert name.distance <= name.tolerance
        assert (name.requests, name.completion_tokens) == (1, 4)
    assert await gate.ready() == 200


async def test_the_base_answers_under_a_name_of_each_model(gate: Gate) -> None:
    """With the template of the model, so that only the adapter makes the difference."""
    first = gate.claim.add("first")
    assert (await gate.chat("first-base"))[0] == 404
    await gate.serves(first)
    status, body = await gate.chat("first-base")
    assert (status, body["model"], answer(body)) == (200, "first-base", "")
    sent = [request for request in gate.vllm.requests if "messages" in request]
    assert [request["chat_template"] for request in sent] == ["template of the job"]
    assert {request["model"] for request in sent} == gate.vllm.unchanged
    (event,) = await gate.stream("first-base", count=1)
    assert (event["model"], event["choices"][0]["text"]) == ("first-base", ":0 ")
    await gate.reports('finetune_gate_tokens_total{kind="completion",model="first-base"} 5.0')
    await gate.vllm.kill()
    assert (await gate.chat("first-base"))[0] == 503, "as for the model"
    await gate.want()
    assert (await gate.chat("first-base"))[0] == 404


async def test_proofs_name_what_was_compared(gate: Gate) -> None:
    await gate.serves(gate.claim.add("a"), gate.claim.add("b"))
    found = await gate.until("a", lambda each: "a neighbour and the base" in each.message)
    assert "an answer from 256 cached tokens agrees" in found.message
    assert "8 tokens of the base model agree while the adapter decodes" in found.message


async def test_a_name_that_was_proved_alone_is_proved_again_with_a_neighbour(gate: Gate) -> None:
    first, second = gate.claim.add("a"), gate.claim.add("b")
    await gate.serves(first)
    found = await gate.until("a", lambda each: bool(each.message))
    assert "while the base decodes" in found.message
    await gate.serves(first, second)
    await gate.until("a", lambda each: "while a neighbour and the base" in each.message)


def fault(**changes: Any) -> Callable[[Gate], None]:
    def plant(gate: Gate) -> None:
        gate.vllm.faults = Faults(**changes)

    return plant


class AllSeeds(dict[str, str]):
    """The engine loads other weights, whatever the file has."""

    def get(self, key: str, default: Any = None) -> str:
        return "another"


@pytest.mark.parametrize(
    ("plant", "match"),
    [
        (fault(loads=AllSeeds()), "not the tuned model"),
        (fault(scale=0.0), "not the tuned model"),
        (fault(scale=0.5), "not the tuned model"),
        (fault(scale=0.9), "not the tuned model"),
        (fault(stale_cache=True), "from the prefix cache"),
        (fault(caches=False), "--enable-prompt-tokens-details"),
        (fault(ignores_template=True), "the tokenizer or the chat template differs"),
        (fault(refuses_load=True), "HTTP 400"),
    ],
    ids=[
        "another adapter", "the base alone", "half of the scale", "0.9 of the scale",
        "stale cache", "no cache", "another template", "load rejected",
    ],
)  # fmt: skip
async def test_a_fault_of_the_engine_keeps_the_name_from_answering(
    gate: Gate, plant: Callable[[Gate], None], match: str
) -> None:
    plant(gate)
    await gate.want(gate.claim.add("a"))
    found = await gate.until("a", is_failed)
    assert match in found.message, found.message
    assert (found.answers, found.outcome) == (None, None)
    assert (await gate.chat("a"))[0] == 503
    assert await gate.ready() == 200, "one bad adapter keeps no pod from being ready"


async def test_an_adapter_that_answers_with_a_neighbours_weights(gate: Gate) -> None:
    """Alone it is right: only the scores next to others show it."""
    gate.vllm.faults.leaks = True
    await gate.want(gate.claim.add("a"), gate.claim.add("b"))
    found = await gate.until("a", is_failed)
    assert "while other models decode" in found.message, found.message


async def test_a_base_that_answers_with_an_adapter_serves_nothing(gate: Gate) -> None:
    gate.vllm.faults.base_gets_adapter = True
    await gate.want(gate.claim.add("a"))
    deadline = time.monotonic() + 20
    while not (status := await gate.status()).self_test:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert status.self_test.startswith("failed: while the adapter decodes"), status.self_test
    assert status.self_test_failed
    assert (await gate.chat("a"))[0] == 503
    assert await gate.ready() == 503


async def test_a_bad_adapter_leaves_the_others_alone(gate: Gate) -> None:
    bad, good = gate.claim.add("bad", facts={"baseCommit": "d" * 40}), gate.claim.add("good")
    await gate.want(bad, good)
    await gate.until("good", lambda each: each.state == "Serving")
    assert "trained on commit" in (await gate.until("bad", is_failed)).message


async def test_inconclusive_answers_only_if_the_endpoint_allows_it(gate: Gate) -> None:
    wanted = gate.claim.add("a", scale=0.0)
    gate.vllm.faults.scale = 0.0
    await gate.want(wanted)
    found = await gate.until("a", is_failed)
    assert "does not allow Inconclusive" in found.message
    assert (await gate.chat("a"))[0] == 503
    await gate.want(wanted.model_copy(update={"allow_inconclusive": True}))
    found = await gate.until("a", lambda each: each.state == "Serving")
    assert found.outcome == "Inconclusive"


@pytest.mark.parametrize("fault", [0.4, None])
async def test_the_weaker_of_both_comparisons_states_the_smallest_fault(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, fault: float | None
) -> None:
    """The outcome is that of the weaker one, too: an Inconclusive name shows why."""
    score = verification.score

    async def alone(*arguments: Any) -> verification.Verdict:
        verdict = await score(*arguments)
        return replace(verdict, outcome="Inconclusive", smallest_fault=fault)

    monkeypatch.setattr(verification, "score", alone)
    await gate.serves(gate.claim.add("a").model_copy(update={"allow_inconclusive": True}))
    (found,) = (await gate.status()).names
    assert (found.outcome, found.smallest_fault) == ("Inconclusive", fault)


async def test_an_adapter_without_a_reference_never_answers(gate: Gate) -> None:
    await gate.want(gate.claim.add("a", with_reference=False))
    assert "recorded no reference" in (await gate.until("a", is_failed)).message


async def test_a_new_revision_is_proved_beside_the_old_one(gate: Gate) -> None:
    old, new = gate.claim.add("a", number=1), gate.claim.add("a", number=2)
    await gate.serves(old)
    answers: list[str] = []
    await gate.want(new)
    while not answers or answers[-1] != gate.claim.seed(new):
        status, body = await gate.chat("a")
        assert status == 200, body
        answers.append(answer(body))
    change = answers.index(gate.claim.seed(new))
    assert change > 0
    assert set(answers[:change]) == {gate.claim.seed(old)}
    await _until_loaded(gate, 1)


@pytest.mark.parametrize(("factor", "words"), [(1.0, "are not"), (0.0, "could be")])
async def test_a_proof_says_whether_scores_tell_two_revisions_apart(
    gate: Gate, factor: float, words: str
) -> None:
    """Two adapters without an effect cannot be distinguished."""
    gate.vllm.faults.scale = factor
    for number in (1, 2):
        wanted = gate.claim.add("a", number=number, scale=factor)
        await gate.serves(wanted.model_copy(update={"allow_inconclusive": True}))
    found = await gate.until("a", lambda each: each.answers == wanted.adapter)
    assert f"its scores {words} those of the revision before" in found.message


async def test_a_faulty_revision_does_not_replace_the_old_one(gate: Gate) -> None:
    old, new = gate.claim.add("a", number=1), gate.claim.add("a", number=2)
    await gate.serves(old)
    gate.vllm.faults.loads = {gate.claim.seed(new): "another"}
    await gate.want(new)
    found = await gate.until("a", is_failed)
    assert found.answers == old.adapter
    assert answer((await gate.chat("a"))[1]) == gate.claim.seed(old)


async def test_swaps_under_load_give_no_failed_and_no_mixed_answer(gate: Gate) -> None:
    revisions = [gate.claim.add("a", number=number) for number in range(1, 7)]
    seeds = {gate.claim.seed(each) for each in revisions}
    await gate.serves(revisions[0])
    done = asyncio.Event()
    streams = 0

    async def caller() -> None:
        nonlocal streams
        while not done.is_set():
            events = await gate.stream("a", count=20)
            text = "".join(each["choices"][0]["text"] for each in events)
            found = {word.split(":")[0] for word in text.split()}
            assert len(found) == 1, text
            assert found <= seeds
            assert {each["model"] for each in events} == {"a"}
            streams += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(caller())
        for revision in revisions[1:]:
            await gate.serves(revision)
        done.set()
    assert streams > 10
    await _until_loaded(gate, 1)


async def _until_loaded(gate: Gate, count: int) -> None:
    deadline = time.monotonic() + 10
    while len(gate.vllm.adapters) != count:
        assert time.monotonic() < deadline, gate.vllm.adapters
        await asyncio.sleep(0.02)


async def test_an_adapter_is_unloaded_when_its_last_request_has_ended(gate: Gate) -> None:
    wanted = gate.claim.add("a")
    await gate.serves(wanted)
    gate.vllm.interval = 0.02
    stream = asyncio.create_task(gate.stream("a", count=40))
    await gate.has_running()
    await gate.want()
    await gate.answers("a", 404)
    assert gate.vllm.adapters, "its stream is running"
    assert len(await stream) == 40
    await _until_loaded(gate, 0)


async def test_a_restart_of_the_engine_empties_the_table(gate: Gate) -> None:
    wanted = gate.claim.add("a")
    await gate.serves(wanted)
    before = await gate.status()
    await gate.vllm.kill()
    assert (await gate.chat("a"))[0] == 503
    gate.vllm.socket.unlink()
    (ended,) = (await gate.status()).names
    assert (ended.state, ended.message) == ("Waiting", ""), "the proof has not failed"
    await gate.vllm.restart()
    assert (await gate.chat("a"))[0] == 503, "not before it is proved again"
    assert await gate.ready() == 503
    found = await gate.until("a", lambda each: each.state == "Serving")
    assert found.boot not in (None, before.boot)
    assert answer((await gate.chat("a"))[1]) == gate.claim.seed(wanted)
    assert len(set(gate.vllm.paths)) == 2, "no path is used twice"


async def test_names_return_one_by_one_after_a_restart(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pod that is not ready gets no requests, also not for the names that are proved."""
    first, second = gate.claim.add("a"), gate.claim.add("b")
    await gate.serves(first, second)
    held = Held(monkeypatch, second)
    await gate.vllm.kill()
    await gate.vllm.restart()
    assert await gate.ready() == 503, "no name answers yet"
    await gate.until("a", lambda each: each.state == "Serving")
    assert ((await gate.chat("a"))[0], (await gate.chat("b"))[0]) == (200, 503)
    assert await gate.ready() == 200
    held.turn.set()
    await gate.answers("b", 200)


async def test_an_engine_that_restarted_unnoticed_knows_no_internal_name(gate: Gate) -> None:
    """Between two checks, only the internal name protects a request."""
    await gate.serves(gate.claim.add("a"))
    gate.vllm.adapters.clear()
    status, body = await gate.chat("a")
    assert (status, body["error"]["code"]) == (503, 503)


async def test_a_stream_that_the_engine_does_not_end_is_no_complete_answer(gate: Gate) -> None:
    await gate.serves(gate.claim.add("a"))
    gate.vllm.interval = 0.02
    stream = asyncio.create_task(gate.stream("a", count=200))
    await gate.has_running()
    await asyncio.sleep(0.1)
    await gate.vllm.kill()
    with pytest.raises(aiohttp.ClientError):
        await stream


async def test_a_gate_that_restarts_proves_again_and_unloads_what_it_does_not_know(
    tmp_path: Path,
) -> None:
    async with vllm_server.serving(tmp_path / "vllm.sock") as vllm:
        async with running(tmp_path, vllm=vllm) as first:
            wanted = first.claim.add("a")
            await first.serves(wanted)
            before = set(vllm.adapters)
        (kept,) = vllm.paths
        assert vllm.has_file(kept), "vLLM may read it again"
        async with running(tmp_path, vllm=vllm, claim=first.claim) as second:
            assert (await second.chat("a"))[0] == 404, "no set was accepted yet"
            second.sequence = first.sequence
            await second.serves(wanted)
            assert not before & set(vllm.adapters)
            assert vllm.has_file(kept)


async def test_names_return_after_a_restart_of_the_gate_although_all_slots_are_used(
    tmp_path: Path,
) -> None:
    """What the earlier gate loaded keeps its slots; on a CPU, the last one disturbs the base."""
    async with vllm_server.serving(tmp_path / "vllm.sock") as vllm:
        claim = None
        for number in range(3):
            async with running(tmp_path, vllm=vllm, claim=claim) as gate:
                claim, gate.sequence = gate.claim, number
                wanted = [gate.claim.add(name, number=number) for name in ("a", "b")]
                await gate.serves(*wanted)
                assert answer((await gate.chat("a"))[1]) == gate.claim.seed(wanted[0])


async def test_more_rollouts_than_slots(gate: Gate) -> None:
    for number in range(2 * vllm_server.SLOTS):
        wanted = gate.claim.add("a", number=number)
        await gate.serves(wanted)
        assert answer((await gate.chat("a"))[1]) == gate.claim.seed(wanted)


async def test_more_adapters_than_slots(tmp_path: Path) -> None:
    """lora.maxActive is lower than lora.maxAdapters."""
    async with running(tmp_path, "--max-adapters", "6") as gate:
        wanted = [gate.claim.add(name) for name in "abcdef"]
        await gate.serves(*wanted)
        for each in wanted:
            assert answer((await gate.chat(each.name))[1]) == gate.claim.seed(each)


async def test_the_set_of_the_mounted_file_is_used(gate: Gate) -> None:
    gate.wanted.write_bytes(gates.signed([gate.claim.add("a")], 5))
    await gate.until("a", lambda each: each.state == "Serving")
    assert (await gate.status()).sequence == 5


async def test_more_adapters_than_places(tmp_path: Path) -> None:
    async with running(tmp_path, "--max-adapters", "1") as gate:
        first, second = gate.claim.add("a"), gate.claim.add("b")
        await gate.want(first, second)
        await gate.until("a", lambda each: each.state == "Serving")
        found = await gate.until("b", lambda each: each.state == "Full")
        assert "all 1 places for adapters are taken" in found.message
        await gate.serves(second)


async def test_a_full_endpoint_rolls_out(tmp_path: Path) -> None:
    """The old revision answers meanwhile, and takes no place from the new one."""
    async with running(tmp_path, "--max-adapters", "1") as gate:
        old, new = gate.claim.add("a", number=1), gate.claim.add("a", number=2)
        await gate.serves(old)
        await gate.want(new)
        await gate.until("a", lambda each: each.answers == new.adapter)
        assert (await gate.status()).free == 0


def errors(gate: Gate, kind: str, wanted: WantedName) -> None:
    getattr(gate.vllm.faults, kind).add(gate.claim.seed(wanted))


@pytest.mark.parametrize("kind", ["load_errors", "score_errors"])
async def test_an_adapter_that_the_engine_answers_with_500_leaves_the_others_alone(
    gate: Gate, tmp_path: Path, kind: str
) -> None:
    bad, good = gate.claim.add("bad"), gate.claim.add("good")
    errors(gate, kind, bad)
    await gate.want(bad, good)
    await gate.until("good", lambda each: each.state == "Serving")
    found = await gate.until("bad", is_failed)
    assert "HTTP 500" in found.message, found.message
    assert (await gate.chat("good"))[0] == 200
    assert await gate.ready() == 200
    (boot,) = (each for each in (tmp_path / "copies").iterdir() if each.is_dir())
    copies = {each.name for each in boot.iterdir()} - gate.vllm.unchanged
    assert len(copies) == len(gate.vllm.adapters), "a copy that was not loaded is deleted"


async def test_an_adapter_is_tried_again_after_an_error_of_the_engine(gate: Gate) -> None:
    wanted = gate.claim.add("a")
    errors(gate, "load_errors", wanted)
    await gate.want(wanted)
    await gate.until("a", lambda each: "HTTP 500" in each.message)
    gate.vllm.faults.load_errors.clear()
    await gate.until("a", lambda each: each.state == "Serving")


@pytest.mark.parametrize("kind", ["fatal_loads", "fatal_scores"])
async def test_an_adapter_that_ends_the_engine_is_given_up(gate: Gate, kind: str) -> None:
    bad, good = gate.claim.add("bad"), gate.claim.add("good")
    errors(gate, kind, bad)
    await gate.want(bad, good)
    found = await gate.until("bad", is_failed)
    assert "ended" in found.message, found.message
    assert "before its job asks for another attempt" in found.message
    await gate.until("good", lambda each: each.state == "Serving")
    assert gate.vllm.deaths == 3
    await asyncio.sleep(1)
    assert gate.vllm.deaths == 3
    assert (await gate.chat("good"))[0] == 200
    # Its job does, after the cause was removed.
    getattr(gate.vllm.faults, kind).clear()
    await gate.want(again(bad), good)
    await gate.until("bad", lambda each: each.state == "Serving")
    assert gate.vllm.deaths == 3


async def test_a_faulty_adapter_is_proved_again_when_its_job_asks_for_it(gate: Gate) -> None:
    bad, good = gate.claim.add("bad"), gate.claim.add("good")
    gate.vllm.faults.loads = {gate.claim.seed(bad): "another"}
    await gate.want(bad, good)
    await gate.until("bad", is_failed)
    await gate.until("good", lambda each: each.state == "Serving")
    gate.vllm.faults.loads = {}
    loads = gate.vllm.loads.count(gate.claim.seed(good))
    await gate.want(again(bad), again(good))
    await gate.until("bad", lambda each: each.state == "Serving")
    assert gate.vllm.loads.count(gate.claim.seed(good)) == loads, "what answers is not touched"


@pytest.fixture
async def refused(gate: Gate) -> tuple[WantedName, WantedName]:
    """A revision that has failed, while the one before it answers; and another job."""
    old, new, other = (
        gate.claim.add("a", number=1), gate.claim.add("a", number=2), gate.claim.add("other"),
    )  # fmt: skip
    await gate.serves(old)
    gate.vllm.faults.loads = {gate.claim.seed(new): "another"}
    await gate.want(new)
    assert (await gate.until("a", is_failed)).answers == old.adapter
    gate.vllm.faults.loads = {}
    return new, other


async def test_another_attempt_has_not_failed_while_the_gate_proves_another_adapter(
    gate: Gate, refused: tuple[WantedName, WantedName], monkeypatch: pytest.MonkeyPatch
) -> None:
    new, other = refused
    held = Held(monkeypatch, other)
    await gate.want(new, other)
    await asyncio.wait_for(held.reached.wait(), 20)
    assert (await gate.until("a", is_failed)).attempt == 1
    await gate.want(again(new), other)
    found = await gate.until("a", lambda each: each.attempt == 2)
    assert (found.state, found.message) == ("Waiting", "")
    held.turn.set()
    await gate.until("a", lambda each: each.answers == new.adapter)


async def test_another_attempt_has_not_failed_while_the_engine_is_down(
    gate: Gate, refused: tuple[WantedName, WantedName]
) -> None:
    new, _ = refused
    await gate.vllm.kill()
    await gate.want(again(new))
    found = await gate.until("a", lambda each: each.attempt == 2)
    assert not is_failed(found), found.message
    await gate.vllm.restart()
    await gate.until("a", lambda each: each.answers == new.adapter)


async def test_a_proof_that_still_runs_fails_no_later_attempt(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = gate.claim.add("a")
    gate.vllm.faults.loads = {gate.claim.seed(wanted): "another"}
    held = Held(monkeypatch, wanted)
    await gate.want(wanted)
    await asyncio.wait_for(held.reached.wait(), 20)
    await gate.want(again(wanted))
    held.turn.set()
    await asyncio.wait_for(held.ended.wait(), 20)
    gate.vllm.faults.loads = {}
    await gate.until("a", lambda each: each.state == "Serving")


async def test_an_adapter_that_returns_with_another_attempt_is_tried_again(gate: Gate) -> None:
    wanted = gate.claim.add("a")
    gate.vllm.faults = Faults(loads={gate.claim.seed(wanted): "another"}, refuses_unload=True)
    await gate.want(wanted)
    await gate.until("a", is_failed)
    await gate.want()
    await asyncio.sleep(0.7)
    await gate.want(again(wanted))
    gate.vllm.faults = Faults()
    await gate.until("a", lambda each: each.state == "Serving")


async def test_an_inconclusive_adapter_is_proved_again_when_its_job_asks_for_it(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = gate.claim.add("a", scale=0.0)
    gate.vllm.faults.scale = 0.0
    await gate.want(wanted)
    await gate.until("a", is_failed)
    held = Held(monkeypatch, wanted)
    await gate.want(again(wanted))
    assert (await gate.until("a", lambda each: each.attempt == 2)).state == "Proving"
    await asyncio.wait_for(held.reached.wait(), 20)
    held.turn.set()
    assert "does not allow Inconclusive" in (await gate.until("a", is_failed)).message


async def test_another_attempt_of_an_adapter_that_ended_the_engine_comes_last(gate: Gate) -> None:
    bad, good = gate.claim.add("bad"), gate.claim.add("good")
    errors(gate, "fatal_loads", bad)
    await gate.want(bad, good)
    await gate.until("bad", is_failed)
    await gate.until("good", lambda each: each.state == "Serving")
    await gate.vllm.kill()
    await gate.want(again(bad), good)
    gate.vllm.loads.clear()
    await gate.vllm.restart()
    found = await gate.until("bad", is_failed)
    assert "before its job asks for another attempt" in found.message
    order = [gate.claim.seed(wanted) for wanted in (good, bad)]
    assert gate.vllm.loads[:4] == 2 * order


async def test_an_adapter_that_ended_the_engine_comes_last(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it need not wait."""
    monkeypatch.setattr("finetune_gate.failures.LONGEST_WAIT", 0.0)
    bad, good = gate.claim.add("bad"), gate.claim.add("good")
    errors(gate, "fatal_loads", bad)
    await gate.want(bad, good)
    await gate.until("bad", is_failed)
    await gate.until("good", lambda each: each.state == "Serving")
    order = [gate.claim.seed(each) for each in (bad, good)]
    assert gate.vllm.loads == 3 * order


async def test_an_adapter_that_the_engine_does_not_unload_is_unloaded_later(gate: Gate) -> None:
    await gate.serves(gate.claim.add("a"))
    gate.vllm.faults.refuses_unload = True
    await gate.want()
    await asyncio.sleep(0.7)
    assert gate.vllm.adapters
    gate.vllm.faults.refuses_unload = False
    await _until_loaded(gate, 0)


async def test_an_engine_with_a_short_maximum_length(gate: Gate) -> None:
    """The streams of neighbour and base stay within it."""
    gate.vllm.longest = 200
    await gate.serves(gate.claim.add("a"), gate.claim.add("b"))
    await gate.until("b", lambda each: "a neighbour and the base" in each.message)


async def test_streams_report_tokens_to_whom_asks(gate: Gate) -> None:
    await gate.serves(gate.claim.add("a"))
    events = await gate.stream("a", stream_options={"include_usage": True})
    assert events[-1]["usage"]["completion_tokens"] == 8
    assert all("usage" not in each for each in await gate.stream("a"))
    (name,) = (await gate.status()).names
    assert (name.requests, name.prompt_tokens, name.completion_tokens) == (2, 14, 16)


async def test_metrics_of_each_name(gate: Gate) -> None:
    await gate.serves(gate.claim.add("a"))
    await gate.stream("a")
    await gate.chat("a", nonsense=1)
    found = await gate.metrics()
    assert 'finetune_gate_requests_total{model="a",outcome="completed"} 1.0' in found
    assert 'finetune_gate_requests_total{model="a",outcome="rejected"} 1.0' in found
    assert 'finetune_gate_tokens_total{kind="completion",model="a"} 8.0' in found
    assert 'finetune_gate_outcome{model="a",outcome="Verified"} 1.0' in found
    assert 'finetune_gate_first_token_seconds_count{model="a"} 1.0' in found
    await gate.want()
    await gate.reports('model="a"', is_there=False)


async def test_an_error_of_the_engine_has_the_public_name(gate: Gate) -> None:
    await gate.serves(gate.claim.add("a"))
    status, body = await gate.chat("a", temperature=99)
    assert status == 400
    assert body["error"]["message"] == "temperature of a is too high"


async def test_the_probe_of_the_engine(gate: Gate) -> None:
    async def health() -> int:
        async with gate.session.get(f"{gate.operator_url}/engine/health") as response:
            return response.status

    assert await health() == 200
    await gate.vllm.kill()
    assert await health() == 503


def test_the_latest_batch_counts() -> None:
    """There is a series for each earlier combination of adapters."""
    found = parsed(
        '# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{engine="0"} 3.0\n'
        "# TYPE vllm:lora_requests_info gauge\n"
        'vllm:lora_requests_info{running_lora_adapters="b,a"} 20.0\n'
        'vllm:lora_requests_info{running_lora_adapters="c"} 10.0\n'
    )
    assert (found.requests, found.adapters) == (3, frozenset({"a", "b"}))
    assert parsed("").adapters == frozenset()


async def test_scores_count_only_while_the_others_decode(tmp_path: Path) -> None:
    """The fake engine reports nobody as running: no proof succeeds, and no name answers."""
    async with running(tmp_path) as gate:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("finetune_gate.proofs.company.START_SECONDS", 0.2)
            gate.vllm.hides_running = True
            await gate.want(gate.claim.add("a"))
            await asyncio.sleep(1.5)
            (name,) = (await gate.status()).names
            assert (name.state, name.answers) == ("Proving", None)
        gate.vllm.hides_running = False
        await gate.until("a", lambda each: each.state == "Serving")
