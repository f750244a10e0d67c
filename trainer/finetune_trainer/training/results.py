"""Publish a completed training: the adapter's folder with its facts, and the stage's result."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.contracts import loss_history
from finetune_api.contracts.endpoint import BASE_FILES_FACT
from finetune_api.contracts.job_config import JobConfig
from finetune_api.contracts.result import Result
from finetune_api.v1alpha1.evaluation import HeldOutLosses
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status.artifacts import TrainArtifacts
from finetune_trainer.checkpointing import adapter_files, manifest, published
from finetune_trainer.devices import device, driver
from finetune_trainer.evaluation import reference
from finetune_trainer.models import tensor_names
from finetune_trainer.reporting import event_file, summary
from finetune_trainer.reporting.loss_history import LossHistory
from finetune_trainer.reporting.model_card import TrainingReport
from finetune_trainer.runtime.log import log
from finetune_trainer.training.backends import TrainOutput
from finetune_trainer.training.loop.early_stopping import Evaluation, EvaluationHistory
from finetune_trainer.training.oom_fallback import MemorySettings
from finetune_trainer.volume_layout import Layout


@dataclass(frozen=True, kw_only=True)
class CompletedTraining:
    """A training whose steps are done, with its adapter still in the scratch folder.

    base, data: manifests of the prepared folders. loss: of the last logged step. gpu_seconds,
    warnings: of all attempts; warnings are sentences.
    """

    job: JobConfig
    layout: Layout
    base: manifest.Manifest
    data: manifest.Manifest
    max_steps: int
    memory: MemorySettings
    versions: Mapping[str, str]
    evaluations: EvaluationHistory
    history: LossHistory
    loss: float | None
    gpu_seconds: float
    trained: TrainOutput
    warnings: Sequence[str]

    @property
    def message(self) -> str:
        """A sentence for the result: the steps done, and the adapter that was kept."""
        done = f"all {self.max_steps} steps completed"
        if self.trained.step < self.max_steps:
            done = f"stopped early at step {self.trained.step} of {self.max_steps}"
        lowest = self.evaluations.best
        if lowest is None:
            return done
        return (
            f"{done}; kept the adapter of step {lowest.step}, which has the lowest loss on the "
            f"held-out rows: {lowest.loss:.4f}"
        )


def publish(finished: CompletedTraining, images: Mapping[str, str]) -> manifest.Manifest:
    """Complete the adapter's folder and publish it. images: of earlier stages, by stage."""
    trained, layout = finished.trained, finished.layout
    template = layout.dataset / published.CHAT_TEMPLATE
    scratch = layout.scratch("adapter")
    if template.is_file():
        shutil.copyfile(template, scratch / template.name)
    shutil.copyfile(layout.tensorboard / event_file.FILE, scratch / event_file.FILE)
    if trained.quantization.scales:
        trained.quantization.save(scratch)
    facts = _facts(finished) | {"images": dict(images)}
    story = TrainingReport(
        job=finished.job,
        base=finished.base.facts,
        data=finished.data.facts,
        trained=facts,
        history=finished.history,
        peak=device.memory_peak(),
        template=template.name if template.is_file() else None,
    )
    facts["warnings"] = [*facts["warnings"], *summary.write(scratch, story)]
    adapter = manifest.publish(
        scratch, layout.adapter, kind=published.ADAPTER, key=finished.job.digest, facts=facts
    )
    manifest.sweep(layout.work)
    return adapter


def _facts(finished: CompletedTraining) -> dict[str, Any]:
    trained, recipe = finished.trained, finished.job.training
    lowest = finished.evaluations.best
    kept: Evaluation | None = lowest or finished.evaluations.last
    extracted = tensor_names.extraction(finished.layout.base)
    start = finished.data.facts.get(published.START_FACT)
    return {
        **({published.TEXT_MODEL_FACT: extracted} if extracted else {}),
        "source": finished.base.facts["source"],
        "baseCommit": finished.base.facts["baseCommit"],
        BASE_FILES_FACT: {file.name: file.sha256 for file in finished.base.files},
        **({published.START_FACT: start} if start is not None else {}),
        "datasetDigest": finished.data.digest,
        "globalStep": trained.step,
        "maxSteps": finished.max_steps,
        "loss": finished.loss,
        "evalLoss": kept.loss if kept else None,
        "evaluations": finished.evaluations.as_facts(),
        "adapterStep": lowest.step if lowest else trained.step,
        "gpuSeconds": round(finished.gpu_seconds, 1),
        "microBatch": finished.memory.micro_batch,
        "offload": finished.memory.offload,
        "gradientCheckpointing": recipe.advanced.gradient_checkpointing is not False
        or finished.memory.recompute,
        "backend": recipe.advanced.backend,
        "attention": trained.attention,
        "device": trained.device,
        "driver": driver.version(),
        "versions": dict(finished.versions),
        "quantizedModules": dict(trained.quantization.digests),
        "quantization": recipe.advanced.quantization.model_dump(mode="json", by_alias=True),
        "warnings": [*finished.data.facts["warnings"], *trained.notes, *finished.warnings],
    }


def result(adapter: manifest.Manifest, layout: Layout, message: str) -> Result:
    """Record the reference if an earlier attempt did not, and return the result of the stage."""
    facts = adapter.facts
    recorded = reference.ensure(layout, adapter)
    total = max(facts["gpuSeconds"], recorded.seconds)
    where = "CPU" if facts["device"] == "cpu" else "GPU"
    log(
        f"recorded the reference in {recorded.seconds:.1f} s, which is "
        f"{100 * recorded.seconds / total:.1f} % of the {where} time of the training "
        f"({total:.0f} s)"
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
        artifacts=TrainArtifacts(
            adapter=adapter.digest,
            adapter_manifest=adapter.sha256,
            reference_manifest=recorded.manifest,
            adapted_modules=adapter_files.adapted_modules(layout.adapter),
            attention=facts["attention"],
            device=facts["device"],
            # An earlier image has recorded no driver.
            driver=facts.get("driver"),
            versions=facts["versions"],
            reference_seconds=round(recorded.seconds),
            largest_activation=recorded.largest_activation,
            evaluation=None
            if recorded.evaluation is None
            else HeldOutLosses.model_validate(recorded.evaluation),
            loss_history=loss_history.recorded(LossHistory.load(layout.adapter).series),
        ),
        warnings=[*facts["warnings"], *recorded.warnings],
    )
