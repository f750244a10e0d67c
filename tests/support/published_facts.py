"""A revision that was trained, merged, evaluated, verified and published, in constant values."""

from typing import Any

from tests.fakes.apiserver import CONFIG

from finetune_api.v1alpha1.publishing.publication import Publication
from finetune_api.v1alpha1.status.ledger import Revision
from finetune_operator.provenance.facts import Facts
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision, resolve_target
from finetune_operator.types import Object

COMMIT = "5f0b02c75b57c5855da9ae460ce51323ea669d8a"
PUBLISH: list[dict[str, Any]] = [
    {"name": "registry", "what": "merged", "oci": {"repository": "registry.example.com/m/support"}},
    {"name": "bucket", "what": "adapter", "s3": {"uri": "s3://models/support"}},
    {"name": "hub", "what": "adapter", "huggingFace": {"repo": "acme/support"}},
]
SPEC: dict[str, Any] = {
    "model": {"source": "hf://org/base", "tokenSecretRef": {"name": "hf-model"}},
    "dataset": {
        "source": "hf://org/rows",
        "revision": "main",
        "format": "messages",
        "chatTemplate": "{{ messages }}" + "x" * 5000,
    },
    "publish": PUBLISH,
}
JOB: Object = {
    "metadata": {"name": "support", "namespace": "team-a", "uid": "uid-of-job"},
    "spec": SPEC,
}
EVALUATED = {"loss": "1.2", "difference": "-0.3", "standardError": "0.02"}


def digest(digit: str) -> str:
    return digit * 64


def revision(target: TargetRevision) -> Revision:
    attempt = {"attempt": 1, "outcome": "Completed"}
    values = {
        "revision": target.revision,
        "frozen": target.frozen.model_dump(by_alias=True),
        "stages": [
            attempt
            | {"stage": "prepare", "imageID": f"r.example.com/trainer@sha256:{digest('1')}"},
            attempt
            | {"stage": "train", "imageID": f"docker-pullable://r/trainer@sha256:{digest('2')}"},
            attempt
            | {
                "stage": "merge",
                "build": target.build,
                "imageID": f"sha256:{digest('3')}",
                "mergedManifest": digest("e"),
            },
            attempt
            | {
                "stage": "serve",
                "build": target.build,
                "imageID": f"r.example.com/vllm@sha256:{digest('4')}",
                "base": "dequantized",
            },
        ],
        "artifacts": {
            "baseCommit": COMMIT,
            "baseBytes": 1000,
            "baseManifest": digest("a"),
            "datasetManifest": digest("b"),
            "datasetDigest": f"sha256:{digest('c')}",
            "adapterManifest": digest("d"),
            "mergedDtype": "bfloat16",
            "referenceManifest": digest("f"),
            "device": "NVIDIA A10G",
            "driver": "580.65.06",
            "versions": {"torch": "2.13.0", "transformers": "5.17.0"},
            "attention": "sdpa",
            "evaluation": {
                "rows": 50,
                "tokens": 900,
                "baseLoss": "1.5",
                "dequantized": EVALUATED,
                "original": EVALUATED,
            },
        },
        "data": {
            "rows": 1000,
            "validationRows": 50,
            "trainedTokens": 20000,
            "sources": [
                {
                    "dataset": "dataset",
                    "config": "en",
                    "commit": "d" * 40,
                    "split": "train",
                    "fileCount": 1,
                    "files": ["train.parquet"],
                }
            ],
            "formats": [{"dataset": "dataset", "format": "messages", "requested": "messages"}],
        },
        "backend": {"name": "trl", "version": "1.14.2", "reason": "it fits", "automatic": "trl"},
        "card": "NVIDIA-A10G",
        "gpuSeconds": 1234,
        "trainingStarted": "2030-01-01T00:10:00Z",
    }
    return Revision.model_validate(values)


GATE = {"outcome": "Passed", "message": "The tuned model passed: held-out loss 1.2000."}


def facts(name: str = "registry", **changes: Any) -> Facts:
    """Return the facts about the publication at a target of the job."""
    target = resolve_target(JOB, Ledger(), CONFIG)
    place = next(each for each in target.resolved.spec.publish or () if each.name == name)
    publication = Publication(
        name=name,
        destination=place.destination,
        content=digest("e" if place.what == "merged" else "d"),
        digest=f"sha256:{digest('9')}",
        manifest=digest("8") if place.s3 is None else None,
        time="2030-01-01T01:00:00Z",
    )
    values: dict[str, Any] = {
        "job": JOB,
        "target": target,
        "record": revision(target),
        "place": place,
        "publication": publication,
        "gate": GATE,
        "verification": {
            "build": target.build,
            "pod": "support-0",
            "outcome": "Verified",
            "distance": "0.003",
            "tolerance": "0.01",
            "smallestFault": "0.04",
        },
    }
    return Facts(**values | changes)
