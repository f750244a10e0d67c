"""A FineTuneEndpoint, its objects and its jobs, on which plans are executed in memory."""

import base64
import itertools
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support.signing_keys import KEY

from finetune_api import API_VERSION
from finetune_api.contracts.endpoint import (
    EndpointStatus,
    NameStatus,
    WantedSet,
    published_path,
)
from finetune_operator.actions import Apply, Create, Delete, Patch
from finetune_operator.budgets.accounts import Accounts
from finetune_operator.config import Images, Settings
from finetune_operator.objects import endpoints, naming
from finetune_operator.reconcile.endpoints import plan as planner
from finetune_operator.types import LISTS, EndpointSnapshot, Plan

Thing = dict[str, Any]
SETTINGS = Settings(
    images=Images(trainer="trainer:1", serving="vllm:1", operator="operator:1"), signing_key=KEY
)
START = datetime(2026, 11, 30, 8, tzinfo=UTC)
MANIFEST, COMMIT = "b" * 64, "c" * 40
PREPARED = {
    "manifest": MANIFEST,
    "commit": COMMIT,
    "dtype": "float16",
    "bytes": 16_000_000_000,
    "modules": ["q_proj", "v_proj"],
}


@dataclass(kw_only=True)
class World:
    """The objects of one endpoint; every plan is applied to them."""

    settings: Settings = SETTINGS
    now: datetime = START
    endpoint: Thing = field(
        default_factory=lambda: {
            "apiVersion": API_VERSION,
            "kind": "FineTuneEndpoint",
            "metadata": {
                "name": "shared",
                "namespace": "team",
                "uid": "uid-of-endpoint",
                "generation": 1,
                "creationTimestamp": "2026-11-30T07:00:00Z",
            },
            "spec": {"model": {"source": "hf://acme/base", "revision": COMMIT}},
        }
    )
    objects: dict[tuple[str, str], Thing] = field(default_factory=dict)
    finetunejobs: dict[str, Thing] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)
    """UIDs of jobs that exist without referring to the endpoint, or that still publish."""
    pods: list[Thing] = field(default_factory=list)
    gate: EndpointStatus | None = None
    awaits_report: bool = False
    accounts: Accounts | None = None
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    @property
    def name(self) -> str:
        return str(self.endpoint["metadata"]["name"])

    @property
    def status(self) -> Thing:
        return self.endpoint.get("status") or {}

    @property
    def spec(self) -> Thing:
        found: Thing = self.endpoint["spec"]
        return found

    @property
    def folders(self) -> list[Thing]:
        """Return the folders in the status."""
        return list(self.status.get("folders") or ())

    def jobs_of(self, stage: str) -> list[Thing]:
        """Return the Jobs of a stage, the newest one last."""
        return [
            each
            for (kind, _), each in self.objects.items()
            if kind == "Job" and each["metadata"]["labels"][naming.STAGE] == stage
        ]

    def snapshot(self) -> EndpointSnapshot:
        children = {
            name: tuple(each for (of, _), each in self.objects.items() if of == kind)
            for kind, name in LISTS.items()
        }
        children["pods"] = tuple(self.pods)
        exist = {each["metadata"]["uid"] for each in self.finetunejobs.values()} | self.others
        return EndpointSnapshot(
            endpoint=self.endpoint,
            settings=self.settings,
            finetunejobs=tuple(self.finetunejobs.values()),
            deleted_jobs=frozenset(each["uid"] for each in self.folders) - exist,
            gate=self.gate,
            awaits_report=self.awaits_report,
            accounts=self.accounts,
            **children,
        )

    def plan(self) -> Plan:
        self.now += timedelta(seconds=1)
        found = planner.plan(self.snapshot(), now=self.now)
        assert found == planner.plan(self.snapshot(), now=self.now), "plans are pure"
        return found

    def step(self) -> Plan:
        """Execute the next plan."""
        return self.execute(self.plan())

    def execute(self, found: Plan, *, writes: int | None = None) -> Plan:
        """Execute a plan, and return it. writes: the operator ends after so many of them."""
        if writes == 0:
            return found
        self.endpoint["status"] = json.loads(json.dumps(found.status))
        for action in found.actions[: None if writes is None else writes - 1]:
            body = json.loads(json.dumps(action.object))
            key = body["kind"], body["metadata"]["name"]
            if isinstance(action, Delete):
                del self.objects[key]
            elif isinstance(action, Patch):
                self.objects[key]["spec"] |= action.changes["spec"]
            elif isinstance(action, Create | Apply):
                before = self.objects.get(key)
                assert not (isinstance(action, Create) and before is not None)
                kept = {} if before is None else before["metadata"]
                body["metadata"] |= {
                    "uid": kept.get("uid") or f"uid-{next(self._numbers)}",
                    "generation": 1,
                    "creationTimestamp": "2026-11-30T08:00:00Z",
                }
                if before is not None and "status" in before:
                    body["status"] = before["status"]
                self.objects[key] = body
        return found

    def condition(self, type_: str) -> Thing:
        found: dict[str, Thing] = {each["type"]: each for each in self.status.get("conditions", ())}
        return found.get(type_, {})

    @property
    def reason(self) -> str:
        return str(self.condition("Ready").get("reason"))

    def find(self, kind: str, name: str) -> Thing:
        return self.objects[kind, name]

    @property
    def deployment(self) -> Thing | None:
        return self.objects.get(("Deployment", endpoints.deployment_name(self.name)))

    @property
    def claim(self) -> str:
        """Return the uid of the claim: that which the first step gives it, before it exists."""
        found = self.objects.get(("PersistentVolumeClaim", endpoints.object_name(self.name)))
        return "uid-1" if found is None else str(found["metadata"]["uid"])

    def wanted(self) -> WantedSet | None:
        """Return the list of names in the ConfigMap."""
        found = self.objects.get(("ConfigMap", endpoints.object_name(self.name)))
        if found is None:
            return None
        payload = json.loads(found["data"]["wanted.json"])["payload"]
        return WantedSet.model_validate_json(base64.b64decode(payload), by_name=False)

    def end_base(self, outcome: str = "completed", **result: Any) -> None:
        """Let the pod of the newest attempt end."""
        job = self.jobs_of("base")[-1]
        failed = outcome == "failed"
        job["status"] = {
            "conditions": [{"type": "Failed" if failed else "Complete", "status": "True"}]
        }
        values = {"stage": "base", "outcome": outcome, "reason": "Completed", "message": ""}
        message = values | ({} if failed else {"artifacts": PREPARED}) | result
        self.pods.append(
            {
                "kind": "Pod",
                "metadata": {
                    "name": f"{job['metadata']['name']}-x",
                    "uid": f"uid-{next(self._numbers)}",
                    "labels": job["metadata"]["labels"],
                    "creationTimestamp": "2026-11-30T08:00:00Z",
                    "ownerReferences": [
                        {"kind": "Job", "uid": job["metadata"]["uid"], "controller": True}
                    ],
                },
                "status": {
                    "phase": "Failed" if failed else "Succeeded",
                    "containerStatuses": [
                        {
                            "name": "trainer",
                            "state": {
                                "terminated": {"exitCode": 0, "message": json.dumps(message)}
                            },
                        }
                    ],
                },
            }
        )

    def prepare(self) -> None:
        """Prepare the base, and create what serves."""
        self.step()
        self.end_base()
        self.step()

    def serve(self) -> None:
        """Let the pod of the Deployment become ready."""
        assert self.deployment is not None
        self.deployment["status"] = {
            "observedGeneration": 1,
            "updatedReplicas": 1,
            "availableReplicas": 1,
        }
        self.report()

    def report(self, **states: str) -> None:
        """Let the gate report the list of names, each as served unless a state is given."""
        wanted = self.wanted()
        assert wanted is not None
        self.gate = EndpointStatus(
            endpoint=self.endpoint["metadata"]["uid"],
            pod="uid-of-pod",
            sequence=wanted.sequence,
            boot="boot-1",
            self_test="the base agrees",
            names=tuple(
                NameStatus(
                    name=each.name,
                    job=each.job,
                    revision=each.revision,
                    adapter=each.adapter,
                    attempt=each.attempt,
                    state=states.get(each.job, "Serving"),
                    **(
                        {}
                        if each.job in states
                        else {
                            "answers": each.adapter,
                            "boot": "boot-1",
                            "outcome": "Verified",
                            "distance": 0.0123456,
                            "tolerance": 0.05,
                        }
                    ),
                )
                for each in wanted.names
            ),
        )

    def publish(self, job: str, adapter: str = "1", *names: str, age: int = 0) -> Thing:
        """Let a job publish an adapter. age: days for which the job has existed."""
        uid, digest = f"uid-of-{job}", adapter * 64
        created = START - timedelta(days=age)
        self.finetunejobs[job] = {
            "metadata": {
                "name": job,
                "namespace": "team",
                "uid": uid,
                "creationTimestamp": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            },
            "spec": {"serving": {"mode": "shared", "endpointRef": {"name": "shared"}}},
            "status": {
                "sharedModel": {
                    "endpoint": "shared",
                    "endpointUID": "uid-of-endpoint",
                    "volume": self.claim,
                    "names": list(names or (job,)),
                    "revision": "e" * 64,
                    "adapter": digest,
                    "reference": "f" * 64,
                    "path": published_path(uid, digest),
                }
            },
        }
        return self.finetunejobs[job]
