"""What a finished training leaves: the adapter's folder with its facts, and the stage's result."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.contracts.job_config import JobConfig
from finetune_api.contracts.result import Result
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.checkpointing import manifest, published
from finetune_trainer.evaluation import reference
from finetune_trainer.reporting import describe
from finetune_trainer.reporting.loss_history import Curves
from finetune_trainer.reporting.model_card import Story
from finetune_trainer.runtime import device
from finetune_trainer.runtime.progress import log
from finetune_trainer.training.backends import Trained
from finetune_trainer.training.early_stopping import Evaluation, Evaluations
from finetune_trainer.training.oom_fallback import Rung
from finetune_trainer.volume_layout import Layout


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A training of which all steps are done, its adapter still in the scratch folder.

    base, data: manifests of what was staged. loss: of the last logged step. gpu_seconds: of all
    attempts. warnings: what all attempts have met, in sentences.
    """

    job: JobConfig
    layout: Layout
    base: manifest.Manifest
    data: manifest.Manifest
    max_steps: int
    rung: Rung
    versions: Mapping[str, str]
    evaluations: Evaluations
    curves: Curves
    loss: float | None
    gpu_seconds: float
    trained: Trained
    warnings: Sequence[str]

    @property
    def message(self) -> str:
        """How it ended, in a sentence."""
        done = f"all {self.max_steps} steps are done"
        if self.trained.step < self.max_steps:
            done = f"ended early, at step {self.trained.step} of {self.max_steps}"
        lowest = self.evaluations.kept
        if lowest is None:
            return done
        return (
            f"{done}; the adapter is that of step {lowest.step}, where the loss on the held-out "
            f"rows was lowest: {lowest.loss:.4f}"
        )


def publish(finished: Finished) -> manifest.Manifest:
    """Complete the adapter's folder and publish it."""
    trained, layout = finished.trained, finished.layout
    template = layout.dataset / published.CHAT_TEMPLATE
    scratch = layout.scratch("adapter")
    if template.is_file():
        shutil.copyfile(template, scratch / template.name)
    if trained.quantized.scales:
        trained.quantized.save(scratch)
    facts = _facts(finished)
    story = Story(
        job=finished.job,
        base=finished.base.facts,
        data=finished.data.facts,
        trained=facts,
        curves=finished.curves,
        peak=device.memory_peak(),
    )
    facts["warnings"] = [*facts["warnings"], *describe.write(scratch, story)]
    adapter = manifest.publish(
        scratch, layout.adapter, kind=published.ADAPTER, key=finished.job.revision, facts=facts
    )
    manifest.sweep(layout.work)
    return adapter


def _facts(finished: Finished) -> dict[str, Any]:
    trained, recipe = finished.trained, finished.job.training
    lowest = finished.evaluations.kept
    kept: Evaluation | None = lowest or finished.evaluations.last
    return {
        "source": finished.base.facts["source"],
        "baseCommit": finished.base.facts["baseCommit"],
        "datasetDigest": finished.data.digest,
        "globalStep": trained.step,
        "maxSteps": finished.max_steps,
        "loss": finished.loss,
        "evalLoss": kept.loss if kept else None,
        "evaluations": finished.evaluations.as_facts(),
        "adapterStep": lowest.step if lowest else trained.step,
        "gpuSeconds": round(finished.gpu_seconds, 1),
        "microBatch": finished.rung.micro_batch,
        "offload": finished.rung.offload,
        "backend": recipe.advanced.backend,
        "attention": trained.attention,
        "device": trained.device,
        "versions": dict(finished.versions),
        "quantizedModules": dict(trained.quantized.digests),
        "quantization": recipe.advanced.quantization.model_dump(mode="json", by_alias=True),
        "warnings": [*finished.data.facts["warnings"], *trained.notes, *finished.warnings],
    }


def result(adapter: manifest.Manifest, layout: Layout, message: str) -> Result:
    """Record the reference, which a kill may have cut off, and say what was trained."""
    facts = adapter.facts
    recorded = reference.ensure(layout, adapter)
    total = max(facts["gpuSeconds"], recorded.seconds)
    log(
        f"the reference took {recorded.seconds:.1f} s, "
        f"{100 * recorded.seconds / total:.1f} % of the GPU's {total:.0f} s"
    )
    return Result(
        stage="train",
        outcome="completed",
        reason=Reason.COMPLETED,
        message=message,
        global_step=facts["globalStep"],
        max_steps=facts["maxSteps"],
        loss=facts["loss"],
        eval_loss=facts["evalLoss"],
        gpu_seconds=facts["gpuSeconds"],
        artifacts={
            "adapter": adapter.digest,
            "baseCommit": facts["baseCommit"],
            "datasetDigest": facts["datasetDigest"],
            "backend": f"{facts['backend']} {facts['versions'][facts['backend']]}",
            "attention": facts["attention"],
            "device": facts["device"],
            **({"evaluation": recorded.evaluation} if recorded.evaluation else {}),
        },
        warnings=[*facts["warnings"], *recorded.warnings],
    )
