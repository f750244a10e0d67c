"""The ``prepare`` command: all work, and all refusals, that need no GPU.

Base and dataset are pinned to a commit, checked, downloaded and published as ``base/`` and
``dataset/``. No other stage uses the network.
"""

from collections.abc import Mapping
from typing import Any

from finetune_api.contracts.job_config import JobConfig
from finetune_api.contracts.result import PrepareArtifacts, Result
from finetune_api.contracts.stage_request import PrepareStageRequest
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.resources import Backend
from finetune_trainer.attention import choice as attention_choice
from finetune_trainer.attention import kernels
from finetune_trainer.checkpointing import manifest, published
from finetune_trainer.compatibility import (
    backend_choice,
    recipe_support,
    shared_endpoint,
    vllm_support,
)
from finetune_trainer.compatibility.backend_choice import Facts
from finetune_trainer.devices.cards import Card
from finetune_trainer.estimate import report
from finetune_trainer.models import architecture
from finetune_trainer.preparation import (
    earlier_volume,
    prepare_base,
    prepare_estimate,
    prepare_rows,
    prepare_start,
    prepare_tokens,
)
from finetune_trainer.preparation import options as estimate_options
from finetune_trainer.preparation.signed_sources import Signatures
from finetune_trainer.runtime.log import log
from finetune_trainer.runtime.progress import Progress
from finetune_trainer.volume.volume_errors import translate_volume_errors
from finetune_trainer.volume_layout import Layout


def run(
    job: JobConfig,
    layout: Layout,
    progress: Progress,
    request: PrepareStageRequest,
    *,
    card: Card | None = None,
) -> Result:
    """Prepare a job, unless its base and dataset are published already.

    card: the GPU of this machine, if the train stage will run here.
    """
    options, untrusted = estimate_options.estimate(request, card=card), request.untrusted_volume
    signatures = Signatures(request.signatures, layout)
    layout.work.mkdir(parents=True, exist_ok=True)
    with translate_volume_errors(layout.work, "preparing"):
        # The rows on the volume do not prove which files they were read from.
        begins = untrusted or signatures.concern(job)
        earlier = None if begins else published.prepared(layout, job, hashes=True)
        if earlier is not None:
            return _result(
                *earlier,
                backend_choice.load(layout.dataset),
                message="base and dataset are already prepared",
            )
        image = backend_choice.installed()
        backend_choice.refuse(Facts(recipe=job.training, image=image))
        recipe_support.check_cards(job.training, options)
        if request.endpoint is not None:
            shared_endpoint.check_recipe(job.training, request.endpoint)
            shared_endpoint.check_source(job.model, request.endpoint)
        sources = prepare_rows.pin(job, layout, signatures)
        if untrusted:
            for source in sources.all:
                earlier_volume.keep_verified(source.folder(layout), source.repository.files)
        download = prepare_base.start(
            job,
            layout,
            signatures=signatures,
            untrusted=untrusted,
            rows=[source.folder(layout) for source in sources.all],
            also_needed=sum(source.remaining(layout) for source in sources.all),
        )
        facts = Facts(recipe=job.training, image=image).of_base(download.config)
        backend = backend_choice.choose(facts)
        log(f"training will use {backend.name} {backend.version}: {backend.reason}")
        job = backend_choice.follow(job, backend)
        recipe_support.check_base(job.training, options, download.config)
        start = prepare_start.prepare(job, layout, download, signatures, untrusted=untrusted)
        attention = attention_choice.choose(download.text, architecture.layers(download.folder))
        kernels.check_cards(job.training, options.cards, attention)
        if attention.reason:
            log(f"attention kernels: {attention.reason}")
        job = attention_choice.follow(job, options.cards, attention)
        rows = prepare_rows.tokenize(job, layout, sources, download, progress, signatures)
        if request.endpoint is not None:
            rows.check_template()
        checked = prepare_estimate.check(
            job,
            download.text,
            rows.rows,
            options,
            attention=attention,
            backends=backend_choice.possible(facts),
            base_bytes=download.size,
            base_remaining=download.remaining,
            work=layout.work,
        )
        base = prepare_base.finish(download, job, layout, progress, signatures)
        if request.endpoint is not None:
            files = {file.name: file.sha256 for file in base.files}
            shared_endpoint.check_files(files, request.endpoint)
        prepare_start.check_layers(job, layout, base)
        prepare_tokens.check(layout.base, rows.rows.train, job.training, source=download.name)
        warnings = [
            *(() if start is None else start.warnings),
            *attention_choice.warnings(attention),
            *vllm_support.warnings(options, download.text),
        ]
        dataset = prepare_rows.publish(
            job, layout, sources, download, backend, attention, rows, checked, start, warnings
        )
        manifest.sweep(layout.work)
    progress.ratio(1.0)
    return _result(
        base,
        dataset,
        backend,
        message=f"base and dataset are prepared; training uses {backend.name} "
        f"({backend.reason}){_estimate_suffix(checked)}",
    )


def _start(fact: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the status has about the adapter that the training continues from."""
    return {} if fact is None else {"startCommit": fact["commit"], "startDigest": fact["digest"]}


def _estimate_suffix(checked: prepare_estimate.CheckedEstimate) -> str:
    """Return the estimate as the end of a sentence; empty if nothing was estimated."""
    return f"; {checked.sentence}" if checked.sentence else ""


def _result(
    base_manifest: manifest.Manifest, data: manifest.Manifest, backend: Backend, *, message: str
) -> Result:
    facts = data.facts
    template = next((file for file in data.files if file.name == published.CHAT_TEMPLATE), None)
    return Result(
        stage="prepare",
        outcome="completed",
        reason=Reason.COMPLETED,
        message=message,
        max_steps=facts["plannedSteps"],
        # The facts of the manifest that the status has, and others.
        artifacts=PrepareArtifacts.model_validate(
            {
                **facts,
                **report.status(facts.get(published.ESTIMATE_FACT)),
                "baseCommit": base_manifest.facts["baseCommit"],
                "baseBytes": base_manifest.size(),
                "baseManifest": base_manifest.sha256,
                **_start(facts.get(published.START_FACT)),
                "datasetDigest": data.digest,
                "datasetManifest": data.sha256,
                "backend": backend,
                "chatTemplate": f"sha256:{template.sha256}" if template else None,
                "effectiveTemplate": facts.get(published.TEMPLATE_FACT),
            },
            extra="ignore",
        ),
        warnings=facts["warnings"],
    )
