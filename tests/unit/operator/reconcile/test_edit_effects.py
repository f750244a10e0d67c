"""For each field of the spec, ``ftj plan`` predicts what the planner of the operator then does."""

import copy
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import CONFIG, SPEC, Cluster, Thing, copied
from tests.support.leaves import ALPACA, LEAVES, Change, Leaf, change_of, merged, nested
from tests.support.variants import variants
from tests.unit.operator.reconcile.publishing.test_plan_publishing import target as published
from tests.unit.operator.reconcile.serving.test_shared_mode import endpoint
from tests.unit.operator.reconcile.test_plan_parents import parent

from finetune_api.defaulting import builtin_defaults, resolve
from finetune_api.edits.effects import Effect
from finetune_api.markers import Edit
from finetune_api.outcome import merges
from finetune_api.policy.limits import Limits, Names
from finetune_cli.planning.job_plan import JobPlan, plan
from finetune_cli.planning.state import State
from finetune_cli.planning.verdicts import Options
from finetune_operator.actions import Apply, Create
from finetune_operator.config import Settings
from finetune_operator.objects import naming
from finetune_operator.objects.stages import desired
from finetune_operator.types import Plan, Snapshot

ANY = Names(allow=(".*",))
OPEN: Settings = CONFIG.model_copy(
    update={
        "policy": Limits(publish_destinations=ANY, gpu_stage_resources=ANY, pod_labels=ANY),
    }
)


@dataclass(kw_only=True)
class Watched(Cluster):
    """A cluster that records the effects of the actions of its operator."""

    done: set[Effect] = field(default_factory=set)

    def carry_out(self, snapshot: Snapshot, intended: Plan, **how: Any) -> None:
        self.done |= {
            effect for action in intended.actions if (effect := self._effect(action)) is not None
        }
        super().carry_out(snapshot, intended, **how)

    def _effect(self, action: Any) -> Effect | None:
        made = action.object
        labels = made["metadata"].get("labels", {})
        match action:
            case Create() if made["kind"] == "Job":
                stage = labels[naming.STAGE]
                if stage == "publish":
                    return Effect.PUBLISH
                if stage == "merge":
                    return Effect.REMERGE
                return Effect.RETRAIN if labels[naming.ATTEMPT] == "1" else Effect.RETRY
            case Apply() if made["kind"] == "Deployment":
                present = self.get("Deployment", made["metadata"]["name"])
                same = present and present["spec"]["template"] == made["spec"]["template"]
                return None if same else Effect.ROLL
        return None


def started(spec: Thing) -> Watched:
    written = {key: value for key, value in spec.items() if value is not None}
    cluster = Watched(spec=written, config=OPEN, profiles={"priced": copied(PRICED)})
    metadata = {**PRICED["metadata"], "name": "another", "annotations": {}}
    cluster.profiles["another"] = {**copied(PRICED), "metadata": metadata}
    for name in ("first", "another"):
        cluster.endpoints[name] = endpoint(name=name)
    for name in ("one", "another"):
        cluster.others[name] = copied(PARENT.present_job())
        cluster.others[name]["metadata"]["name"] = name
    return cluster


def serving(spec: Thing) -> Watched:
    """Return a job that has done everything that its spec asks for."""
    cluster = started(spec)
    cluster.outcome = "Verified"
    controllers.run(cluster, "prepare")
    controllers.run(cluster, "train")
    finish(cluster)
    return cluster


def finish(cluster: Watched) -> None:
    """Run the merge, the serving pods and the publish pods that the operator creates."""
    for _ in range(3):
        version = cluster.version
        cluster.settle()
        controllers.sync(cluster)
        for stage in ("merge", "publish"):
            pods = [
                each
                for each in cluster.each("Pod")
                if each["metadata"]["labels"][naming.STAGE] == stage and controllers.alive(each)
            ]
            if pods:
                run = (
                    controllers.run if stage == "merge" else lambda own, _: controllers.publish(own)
                )
                run(cluster, stage)
        controllers.serve(cluster)
        if cluster.version == version:
            return


def failed(stage: str) -> Callable[[Thing], Watched]:
    def state(spec: Thing) -> Watched:
        cluster = started(spec)
        for each in ("prepare", "train"):
            if each == stage:
                break
            controllers.run(cluster, each)
        text = controllers.message(stage, "failed", reason="DatasetInvalid")
        controllers.run(cluster, stage, 65, text)
        cluster.settle()
        return cluster

    return state


def pending(spec: Thing) -> Watched:
    """Return a job whose train pod waits for a node."""
    cluster = started(spec)
    controllers.run(cluster, "prepare")
    cluster.settle()
    controllers.sync(cluster)
    return cluster


PARENT = parent(published("a"))
"""A job with an adapter to continue from."""
PRICED: dict[str, Any] = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneProfile",
    "metadata": {
        "name": "priced",
        "generation": 1,
        "creationTimestamp": "2029-01-01T00:00:00Z",
        "annotations": {"finetune.dev/is-default-profile": "true"},
    },
    "spec": {"price": {"perGpuHour": "1.00", "currency": "EUR"}},
}
STATES = {
    "serving": serving,
    "prepare failed": failed("prepare"),
    "train failed": failed("train"),
    "train pending": pending,
}

CASES = [
    (leaf, state)
    for leaf in LEAVES
    for state in STATES
    if state == "serving" or leaf.edit is not Edit.RETRAIN
]


def kept() -> list[tuple[Leaf, str]]:
    """Return the cases that ``make test`` runs; ``make search`` runs all of them.

    Of the fields that train again, of which ``test_edit_classes`` compares the digests, and after a
    failure, one field of each group and edit class represents the others. Data preparation also
    depends on the endpoint that will serve the adapter.
    """
    first: dict[object, tuple[Leaf, str]] = {}
    for leaf, state in CASES:
        if (str(leaf), state) == ("serving.endpointRef.name", "prepare failed"):
            first[str(leaf), state] = (leaf, state)
        if state not in ("serving", "train failed"):
            continue
        represented = state != "serving" or leaf.edit is Edit.RETRAIN
        key = (state, leaf.edit, leaf.path[0] if represented else str(leaf))
        first.setdefault(key, (leaf, state))
    return [*first.values()]


@functools.cache
def _prepared(state: str, spec: str) -> Watched:
    return STATES[state](json.loads(spec))


def prepared(state: str, spec: Thing) -> Watched:
    """Return a job in a state. Most fields start from the same spec, which is run once."""
    made = _prepared(state, json.dumps(spec, sort_keys=True))
    return copy.deepcopy(made, {id(made.config): made.config})


def edit_of(leaf: Leaf) -> Change:
    """Return a change of a field to a value that the policy allows."""
    if leaf.path[0] == "resources":
        return Change(before={}, after=nested(leaf.path, {"ephemeral-storage": "7Gi"}))
    if str(leaf) == "training.startFrom.job.revision":
        own = {"name": "one", "revision": PARENT.revisions[0]}
        return Change(
            before={"training": {"startFrom": {"job": {"name": "one"}}}},
            after={"training": {"startFrom": {"job": own}}},
        )
    return change_of(leaf)


def predicted(spec: Thing, cluster: Cluster) -> JobPlan:
    """Return what ``ftj plan`` says about a spec, compared with a job of a cluster."""
    job = cluster.present_job()
    written = {key: job[key] for key in ("apiVersion", "kind")}
    document = {**written, "metadata": {"name": cluster.name}, "spec": spec}
    state = State(source="test", jobs=(job,), profiles=tuple(cluster.profiles.values()))
    found = plan(document, "job.yaml", "ns", state, Options(offline=True))
    assert found.errors == ()
    return found


@pytest.mark.parametrize(
    ("leaf", "state"), variants(CASES, kept=kept()), ids=[f"{leaf}, {s}" for leaf, s in CASES]
)
def test_the_prediction_is_what_the_operator_does(leaf: Leaf, state: str) -> None:
    change = edit_of(leaf)
    before, after = (merged(ALPACA, each) for each in (change.before, change.after))
    cluster = prepared(state, before)
    planned = predicted(after, cluster)
    cluster.done.clear()
    job = cluster.present_job()
    job["spec"] = copied({key: value for key, value in after.items() if value is not None})
    job["metadata"]["generation"] += 1
    cluster.touch(job)
    cluster.settle()
    if Effect.RETRAIN not in cluster.done and state == "serving":
        finish(cluster)
    assert planned.effects == (cluster.done or {Effect.NOTHING})
    effects_of_changes = [line.effect for line in planned.lines]
    assert max(effects_of_changes, key=list(reversed(Effect)).index) in planned.effects


FIRST = {"serving": {"mode": "shared", "endpointRef": {"name": "first"}}}


@pytest.mark.parametrize(
    ("before", "after", "effects_of_edit"),
    [
        pytest.param({}, FIRST, {Effect.PUBLISH}, id="to a shared endpoint"),
        pytest.param(FIRST, merged(FIRST, {"queueName": "other"}), set(), id="queue"),
        pytest.param(
            FIRST, merged(FIRST, {"merge": {"dtype": "float16"}}), set(), id="dtype of a merge"
        ),
    ],
)
def test_a_job_with_a_shared_endpoint_has_neither_merge_nor_pods(
    before: Thing, after: Thing, effects_of_edit: set[Effect]
) -> None:
    old, new = merged(ALPACA, before), merged(ALPACA, after)
    cluster = prepared("serving", old)
    found = predicted(new, cluster).effects
    cluster.done.clear()
    job = cluster.present_job()
    job["spec"] = copied(new)
    job["metadata"]["generation"] += 1
    cluster.touch(job)
    finish(cluster)
    assert found == (cluster.done or {Effect.NOTHING}) == (effects_of_edit or {Effect.NOTHING})


@pytest.mark.parametrize(("card", "effect"), [("NVIDIA-L4", Effect.ROLL), (None, Effect.NOTHING)])
def test_a_profile_with_another_gpu_model_rolls(card: str | None, effect: Effect) -> None:
    cluster = started(ALPACA)
    for name, product in (("first", None), ("second", card)):
        spec = {} if product is None else {"card": product}
        metadata = {**PRICED["metadata"], "name": name, "annotations": {}}
        cluster.profiles[name] = {**PRICED, "metadata": metadata, "spec": spec}
    cluster.edit(profile="first")
    controllers.run_all(cluster)
    cluster.settle()
    found = predicted({**ALPACA, "profile": "second"}, cluster).effects
    cluster.done.clear()
    cluster.edit(profile="second")
    cluster.settle()
    assert found == (cluster.done or {Effect.NOTHING}) == {effect}


@pytest.mark.parametrize(
    ("serving", "merged_model"),
    [
        ({"mode": "merged"}, True),
        ({"mode": "adapter"}, False),
        ({"mode": "shared", "endpointRef": {"name": "shared"}}, False),
        ({"enabled": False}, True),
    ],
)
def test_only_a_job_that_merges_is_predicted_to_merge_again(
    serving: Thing, merged_model: bool
) -> None:
    written = {**copied(SPEC), "serving": serving}
    spec = resolve(written, builtin_defaults()).spec
    assert merges(spec) is merged_model
    assert any(stage.per_build for stage in desired(spec)) is merged_model
