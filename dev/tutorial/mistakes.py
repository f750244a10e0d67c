"""Ten jobs with one fault each, for the end of the tutorial. Pure data."""

from __future__ import annotations

import dataclasses

MODEL = "model: {source: hf://HuggingFaceTB/SmolLM2-135M-Instruct}"
ROWS = "dataset: {source: configmap://velmora-facts/rows.jsonl, format: alpaca}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mistake:
    """A job with one fault. ``reason``: the reason of ``Ready``; None if the API server rejects it.

    ``spec``: fields of the spec as YAML; model and dataset are added if they are missing.
    """

    name: str
    title: str
    spec: str
    shows: str
    reason: str | None = None

    @property
    def manifest(self) -> str:
        """The manifest, as YAML."""
        lines = [line for line in (MODEL, ROWS) if line.split(":")[0] not in self.spec]
        fields = "\n".join(f"  {line}" for line in [*lines, *self.spec.splitlines()])
        return (
            "apiVersion: finetune.dev/v1alpha1\nkind: FineTuneJob\n"
            f"metadata: {{name: {self.name}}}\nspec:\n{fields}\n"
        )


MISTAKES = (
    Mistake(
        name="typo",
        title="A misspelled field",
        spec="training: {learnignRate: 0.001}",
        shows=r"learnignRate",
    ),
    Mistake(
        name="unit",
        title="A size with the wrong unit",
        spec="storage: {size: 60GB}",
        shows=r"spec\.storage\.size.*Gi",
    ),
    Mistake(
        name="both",
        title="Two fields that exclude each other",
        spec="training: {epochs: 3, maxSteps: 100}",
        shows=r"epochs.*maxSteps|maxSteps.*epochs",
    ),
    Mistake(
        name="model-name",
        title="A model that does not exist",
        spec="model: {source: hf://HuggingFaceTB/SmolLM9-Instruct}",
        reason="ModelNotFound",
        shows=r"SmolLM9-Instruct",
    ),
    Mistake(
        name="no-rows",
        title="A ConfigMap that does not exist",
        spec="dataset: {source: configmap://velmora-fact/rows.jsonl, format: alpaca}",
        reason="ConfigMapMissing",
        shows=r"velmora-fact",
    ),
    Mistake(
        name="no-secret",
        title="A Secret that does not exist",
        spec="model: {source: hf://demo/gated, tokenSecretRef: {name: hf-token}}",
        reason="SecretMissing",
        shows=r"hf-token",
    ),
    Mistake(
        name="format",
        title="Rows in another format",
        spec="dataset: {source: configmap://velmora-facts/rows.jsonl, format: messages}",
        reason="DatasetInvalid",
        shows=r"messages",
    ),
    Mistake(
        name="class",
        title="A StorageClass that does not exist",
        spec="storage: {storageClassName: fast}",
        reason="VolumePending",
        shows=r"fast",
    ),
    Mistake(
        name="too-large",
        title="A recipe that exceeds the GPU memory",
        spec="training:\n  sequenceLength: 8192\n  effectiveBatchSize: 256\n"
        "  advanced: {microBatchSize: 256, padToSequenceLength: true}",
        reason="DoesNotFit",
        shows=r"microBatchSize",
    ),
    Mistake(
        name="no-node",
        title="A node label that no node has",
        spec="placement: {nodeSelector: {pool: fast}}",
        reason="Unschedulable",
        shows=r"pool",
    ),
)
