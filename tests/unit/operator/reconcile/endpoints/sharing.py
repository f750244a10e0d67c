"""Jobs that share two endpoints, with both planners, and gates that prove adapters as real ones do.

A gate checks signatures and swaps its table with the code of the real one. Its vLLM restarts,
claims are lost, and the operator plans an endpoint before it has read all jobs.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

from cryptography.hazmat.primitives import serialization
from tests.fakes import controllers
from tests.fakes.apiserver import SPEC, Cluster, Crash, Refused, Thing, copied
from tests.fakes.controllers import digest_of
from tests.support.reconcile.endpoint_world import World
from tests.support.signing_keys import KEY
from tests.unit.operator.reconcile.endpoints import laws_of_sharing as laws

from finetune_api.contracts.endpoint import EndpointStatus, NameStatus, WantedName, WantedSet
from finetune_gate.names import Proof, Table
from finetune_gate.swap import Adapter, Identity, identity, swapped
from finetune_gate.wanted import accepted
from finetune_operator.objects import endpoints, naming
from finetune_operator.reconcile.endpoints import plan as planner

FAULTY_SEED = 2
"""The adapter of a training with this seed fails each proof."""
PUBLIC_KEY: Any = serialization.load_pem_public_key(KEY.public_key)


def adapter_of(name: str, seed: int) -> str:
    return digest_of(f"{name} {seed}")


def seed_of(job: Cluster, pod: Thing) -> int:
    """Return the seed of the revision that a pod trains."""
    name = naming.revision_name(job.name, pod["metadata"]["labels"][naming.REVISION])
    configmap = job.get("ConfigMap", name)
    assert configmap is not None
    return int(json.loads(configmap["data"]["job.json"])["training"]["seed"])


UNCHANGED = "unchanged"
"""Adapter that changes nothing, with which the base answers."""


@dataclass(kw_only=True)
class Gate:
    """The pod of an endpoint, and its claim."""

    world: World
    files: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    """Jobs and adapters on each claim."""
    faulty: set[str]
    starts: int = 1
    listed: WantedSet | None = None
    adapters: dict[Identity, Adapter] = field(default_factory=dict)
    failed: dict[Identity, str] = field(default_factory=dict)
    table: Table = field(default_factory=lambda: Table(boot="1"))
    proofs: set[tuple[str, str]] = field(default_factory=set)
    """Boot and adapter of every proof that succeeded."""

    def restart(self) -> None:
        """Restart vLLM, which forgets all adapters."""
        self.starts += 1
        self.adapters, self.failed = {}, {}
        self.table = Table(boot=str(self.starts))

    def step(self, *, limit: int = 99) -> None:
        """Read the list, load and prove some adapters, and report."""
        deployment = self.world.deployment
        if deployment is None:
            self.world.gate = None
            return
        ready = {"observedGeneration": 1, "updatedReplicas": 1, "availableReplicas": 1}
        deployment["status"] = ready
        text = self.world.find("ConfigMap", f"{self.world.name}-endpoint")["data"]["wanted.json"]
        uid = self.world.endpoint["metadata"]["uid"]
        self.listed = accepted(text.encode(), PUBLIC_KEY, endpoint=uid, last=self.listed)
        for name in self.listed.names:
            if identity(name) not in self.adapters and limit > 0:
                limit -= 1
                self._prove(name)
        before = dict(self.table.routes)
        self.table = swapped(self.table, self.listed, self.adapters, UNCHANGED)
        laws.a_failed_adapter_removes_no_name(before, self.table, self.listed)
        used = {route.internal for route in self.table.routes.values()}
        wanted = {identity(name) for name in self.listed.names}
        self.adapters = {
            key: each
            for key, each in self.adapters.items()
            if key in wanted or each.internal in used
        }
        self._report()

    def _prove(self, name: WantedName) -> None:
        key, boot = identity(name), str(self.table.boot)
        stored = (name.path.split("/")[1], name.adapter)
        if stored not in self.files.get(self.world.claim, set()):
            self.failed[key] = "the files are missing"
        elif name.adapter in self.faulty:
            self.failed[key] = "the log-probabilities differ"
        else:
            proof = Proof(
                boot=boot,
                internal=f"{name.adapter}-{self.starts}-{len(self.proofs)}",
                outcome="Verified",
                message="",
                distance=0.01,
                tolerance=0.05,
                smallest_fault=0.04,
                base_agrees=True,
            )
            self.failed.pop(key, None)
            arrived: Any = Arrived()
            self.adapters[key] = Adapter(internal=proof.internal, arrived=arrived, proof=proof)
            self.proofs.add((boot, name.adapter))

    def _report(self) -> None:
        assert self.listed is not None
        self.world.gate = EndpointStatus(
            endpoint=self.listed.endpoint,
            pod="uid-of-pod",
            sequence=self.listed.sequence,
            boot=self.table.boot,
            self_test="the base agrees",
            names=tuple(self._name(name) for name in self.listed.names),
        )

    def _name(self, name: WantedName) -> NameStatus:
        route, key = self.table.routes.get(name.name), identity(name)
        answers = None if route is None else route.adapter
        state: Any = "Serving" if answers == name.adapter else "Proving"
        if key in self.failed and state != "Serving":
            state = "Failed"
        return NameStatus(
            name=name.name,
            job=name.job,
            revision=name.revision,
            adapter=name.adapter,
            attempt=name.attempt,
            state=state,
            message=self.failed.get(key, ""),
            answers=answers,
            boot=None if route is None else route.proof.boot,
            outcome=None if route is None else route.proof.outcome,
        )


class Arrived:
    """The files of an adapter without a chat template."""

    template = None
    different_blocks = None


class Team:
    """A namespace with jobs and two endpoints."""

    def __init__(self, chance: random.Random) -> None:
        self.random, self.faulty, self.lost = chance, set[str](), set[str]()
        self.endpoints = {name: self._endpoint(name) for name in ("chat", "other")}
        names = ("a", "b", "own")[: chance.choice((2, 2, 3))]
        self.jobs = [self._job(number, name) for number, name in enumerate(names)]

    def _endpoint(self, name: str) -> Gate:
        world = World()
        world.endpoint["metadata"] |= {"name": name, "namespace": "default", "uid": f"uid-{name}"}
        world.endpoint["spec"]["lora"] = {"maxAdapters": 2}
        return Gate(world=world, faulty=self.faulty)

    def _job(self, number: int, name: str) -> Cluster:
        serving: Thing = {"mode": "shared", "endpointRef": {"name": "chat"}}
        spec = copied(SPEC) | ({} if name == "own" else {"serving": serving})
        return Cluster(name=name, identities=10_000 * (number + 1), spec=spec)

    def existing(self) -> Iterator[Cluster]:
        """Yield the jobs that exist."""
        return (job for job in self.jobs if job.job is not None)

    # The operator.

    def reconcile(self, job: Cluster, crash: int | None = None) -> None:
        """Reconcile a job. crash: before this write."""
        if job.job is None:
            return
        job.endpoints = {name: gate.world.endpoint for name, gate in self.endpoints.items()}
        snapshot = job.observe()
        intended = job.plan_of(snapshot)
        every = tuple(copied(gate.world.endpoint) for gate in self.endpoints.values())
        laws.a_job_without_an_endpoint_waits_for_none(job, snapshot, intended, every)
        laws.a_job_serves_only_what_its_endpoint_has_proved(snapshot, intended)
        try:
            job.carry_out(snapshot, intended, die_before=crash)
        except (Crash, Refused):
            return

    def plan(self, gate: Gate, unread: int | None = None, crash: int | None = None) -> None:
        """Reconcile an endpoint.

        unread: a job that the operator has not read; crash: after so many writes.
        """
        world, before = gate.world, gate.world.wanted()
        world.now += timedelta(seconds=1)
        self._read(world, unread)
        snapshot = world.snapshot()
        plan = planner.plan(snapshot, now=world.now)
        if endpoints.JOB_KIND in planner.confirmation(snapshot, plan).kinds:
            self._read(world)
            plan = planner.plan(world.snapshot(), now=world.now)
        world.execute(plan, writes=crash)
        self._read(world)
        laws.names_stay(world, before)
        laws.names_are_proved(world, gate.proofs)

    def _read(self, world: World, unread: int | None = None) -> None:
        world.finetunejobs = {
            job.name: reference
            for number, job in enumerate(self.jobs)
            if job.job is not None and number != unread
            if (reference := endpoints.reference(job.job)) is not None
            and world.name in endpoints.referred(reference)
        }
        world.others = {
            job.present_job()["metadata"]["uid"]
            for number, job in enumerate(self.jobs)
            if job.job is not None and number != unread
        }

    # The cluster.

    def work(self, job: Cluster) -> None:
        """Let pods start, and the running ones end."""
        if job.job is None:
            return
        for pod in list(job.each("Pod")):
            if controllers.alive(pod) and "deletionTimestamp" in pod["metadata"]:
                controllers.stop(job, pod)
            elif pod["status"]["phase"] == "Pending":
                controllers.start(job, pod)
            elif pod["status"]["phase"] == "Running":
                self._finish(job, pod)
        controllers.sync(job)

    def _finish(self, job: Cluster, pod: Thing) -> None:
        stage, artifacts = pod["metadata"]["labels"][naming.STAGE], dict[str, Any]()
        if stage == "serve":
            return
        if stage == "train":
            seed = seed_of(job, pod)
            artifacts = {"adapterManifest": adapter_of(job.name, seed)}
            if seed == FAULTY_SEED:
                self.faulty.add(artifacts["adapterManifest"])
        if stage == "publish":
            artifacts = controllers.published(pod)
            self._publish(pod)
        controllers.finish(job, pod, 0, controllers.message(stage, artifacts=artifacts))

    def _publish(self, pod: Thing) -> None:
        """Write the adapter to the claim that the pod mounts, and remove the others of the job."""
        request = controllers.request_of({"spec": {"template": pod}})
        claims = [
            volume["persistentVolumeClaim"]["claimName"]
            for volume in pod["spec"]["volumes"]
            if volume["name"] == "endpoint"
        ]
        for target in cast(Any, request).targets:
            gate = self.endpoints[claims[0].removesuffix("-endpoint")]
            files = gate.files.setdefault(gate.world.claim, set())
            uid = target.endpoint.path.split("/")[1]
            files -= {
                (of, adapter)
                for of, adapter in files
                if of == uid and adapter not in target.endpoint.keep
            }
            files.add((uid, target.content))

    def prepare(self, gate: Gate) -> None:
        """Let the pod end that prepares the base."""
        world = gate.world
        jobs = world.jobs_of("base")
        if jobs and "status" not in jobs[-1]:
            world.end_base()

    def prune(self, gate: Gate) -> None:
        """Let the pods run that remove folders."""
        files = gate.files.setdefault(gate.world.claim, set())
        for job in gate.world.jobs_of("prune"):
            if "status" not in job:
                (container,) = job["spec"]["template"]["spec"]["containers"]
                uid = container["command"][-1].removeprefix("/jobs/")
                laws.no_folder_of_a_job_that_exists_is_removed(uid, self.existing())
                files -= {stored for stored in files if stored[0] == uid}
                job["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}

    def lose_claim(self, gate: Gate) -> None:
        """Delete the claim of an endpoint, and what it has."""
        self.lost.add(gate.world.name)
        gate.files.pop(gate.world.claim, None)
        name = endpoints.object_name(gate.world.name)
        gate.world.objects.pop(("PersistentVolumeClaim", name), None)

    def delete(self, job: Cluster) -> None:
        """Delete a job at once; the garbage collector follows."""
        job.job = None
        for _ in range(3):
            controllers.collect(job)

    def settle(self, rounds: int = 12) -> None:
        """Let everything act for a while, until nothing changes."""
        for _ in range(rounds):
            before = self._state()
            for job in self.existing():
                for _ in range(2):
                    self.reconcile(job)
                    self.work(job)
            for gate in self.endpoints.values():
                self.prepare(gate)
                self.plan(gate)
                gate.step()
                self.plan(gate)
                self.prune(gate)
            if self._state() == before:
                return

    def _state(self) -> list[Any]:
        gates = self.endpoints.values()
        return [
            [job.version for job in self.jobs],
            [copied(gate.world.status) for gate in gates],
            [gate.table for gate in gates],
        ]
