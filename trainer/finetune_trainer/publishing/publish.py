"""``publish``: uploads the adapter or the merged model to each target, and reads it back.

The targets are independent: each is attempted, and the result names the outcome of each. A target
is complete if it holds exactly the content that the ledger names, under all its names.
"""

import os
import traceback
from collections.abc import Callable, Mapping, Sequence

from finetune_api.contracts.job_config import JobConfig
from finetune_api.contracts.provenance import file_list
from finetune_api.contracts.publish_targets import PublishTargetRequest
from finetune_api.contracts.result import PublishArtifacts, Result
from finetune_api.contracts.stage_request import PublishStageRequest
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import PublishFailed, Stopped, TrainerError, Transient
from finetune_trainer.publishing import content
from finetune_trainer.publishing.content import Content
from finetune_trainer.publishing.endpoint import push as endpoint
from finetune_trainer.publishing.endpoint.push import Copy
from finetune_trainer.publishing.mlflow import tracking
from finetune_trainer.publishing.oci import attest as attest_oci
from finetune_trainer.publishing.oci import push as oci
from finetune_trainer.publishing.outcome import Outcome
from finetune_trainer.publishing.s3 import attest as attest_s3
from finetune_trainer.publishing.s3 import push as s3
from finetune_trainer.publishing.target_errors import TargetError
from finetune_trainer.publishing.transfer import Transfer
from finetune_trainer.runtime.log import log
from finetune_trainer.runtime.progress import Progress
from finetune_trainer.runtime.signals import StopRequest
from finetune_trainer.sources.oci.registry_errors import RegistryError
from finetune_trainer.volume.volume_errors import translate_volume_errors
from finetune_trainer.volume_layout import Layout


def run(
    job: JobConfig,
    layout: Layout,
    progress: Progress,
    stop: StopRequest,
    request: PublishStageRequest,
    environment: Mapping[str, str] = os.environ,
) -> Result:
    """Publish to all targets. Raise Transient or PublishFailed, with the outcomes, otherwise."""
    stop.defer()
    publishing = _Publishing(job, layout, progress, stop, request, environment)
    try:
        publishing.run()
    except Stopped as stopped:
        stopped.artifacts = publishing.artifacts
        raise
    failed = [outcome for outcome in publishing.outcomes if outcome.reason is not None]
    if failed:
        raise _failure(failed, len(request.targets), publishing.artifacts)
    progress.ratio(1.0)
    return Result(
        stage="publish",
        outcome="completed",
        reason=Reason.COMPLETED,
        message=_message(publishing.outcomes),
        artifacts=publishing.artifacts,
    )


def _message(outcomes: Sequence[Outcome]) -> str:
    references = [outcome.reference for outcome in outcomes if outcome.reference is not None]
    listed = [outcome.name for outcome in outcomes if outcome.reference is None]
    return "; ".join(
        f"{text} {', '.join(names)}"
        for text, names in (("published to", references), ("listed the files for", listed))
        if names
    )


def _failure(failed: Sequence[Outcome], count: int, artifacts: PublishArtifacts) -> TrainerError:
    """Return the error of the stage. It is retried if that may help a target."""
    reasons = "; ".join(
        f"{outcome.name}: {outcome.reason}: {outcome.message}" for outcome in failed
    )
    retryable = any(outcome.retryable for outcome in failed)
    error = (Transient if retryable else PublishFailed)(
        f"{len(failed)} of {count} targets are not complete: {reasons}"
    )
    error.artifacts = artifacts
    return error


class _Publishing:
    """The publication to all targets, and what is known about those that were attempted."""

    def __init__(
        self,
        job: JobConfig,
        layout: Layout,
        progress: Progress,
        stop: StopRequest,
        request: PublishStageRequest,
        environment: Mapping[str, str],
    ) -> None:
        self._job = job
        self._layout = layout
        self._progress = progress
        self._stop = stop
        self._request = request
        self._environment = environment
        self._attempted: list[tuple[Outcome, Transfer]] = []

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcomes of the targets that were attempted."""
        return [outcome for outcome, _ in self._attempted]

    @property
    def artifacts(self) -> PublishArtifacts:
        """The outcomes for the result."""
        files = {
            outcome.manifest: file_list.pack(outcome.files)
            for outcome in self.outcomes
            if outcome.reason is None and outcome.manifest and outcome.files
        }
        return PublishArtifacts(
            targets=[outcome.as_artifact(transfer) for outcome, transfer in self._attempted],
            files=files or None,
        )

    def run(self) -> None:
        """Attempt all targets."""
        contents = {target.name: self._content(target) for target in self._request.targets}
        sizes = {
            target.name: model.size
            if isinstance(model := contents[target.name], Content | Copy) and not _lists(target)
            else 0
            for target in self._request.targets
        }
        done = 0
        for target in self._request.targets:
            transfer = Transfer(
                progress=self._progress, stop=self._stop, done=done, total=sum(sizes.values())
            )
            outcome = Outcome(name=target.name)
            self._attempted.append((outcome, transfer))
            self._attempt(target, contents[target.name], outcome, transfer)
            done += sizes[target.name]

    def _content(
        self, target: PublishTargetRequest
    ) -> Content | Copy | TrainerError | TargetError | None:
        """Return what is published; None if the target gets no files of the volume."""
        only_statement = target.attestation is not None and target.hugging_face is None
        if only_statement or target.mlflow is not None:
            return None
        try:
            with translate_volume_errors(self._layout.work, "publishing"):
                if target.endpoint is not None:
                    return endpoint.plan(self._job, self._layout, target)
                return content.read(self._job, self._layout, self._request, target)
        except (TrainerError, TargetError) as error:
            return error

    def _attempt(
        self,
        target: PublishTargetRequest,
        model: Content | Copy | TrainerError | TargetError | None,
        outcome: Outcome,
        transfer: Transfer,
    ) -> None:
        try:
            if isinstance(model, TrainerError | TargetError):
                raise model
            if target.mlflow is not None:
                log(f"sending the results of the training to target {target.name}")
                tracking.track(
                    self._job, self._layout, target, outcome, transfer, self._environment
                )
            elif model is None:
                log(f"adding the signed statement about {target.attested} to target {target.name}")
                attest = attest_oci.attest if target.oci is not None else attest_s3.attest
                attest(target, outcome, transfer, self._environment)
            elif isinstance(model, Copy):
                outcome.size, outcome.manifest = model.size, model.content
                log(f"copying the adapter ({model.size:,} bytes) to target {target.name}")
                with endpoint.errors_of_the_claim(model):
                    endpoint.publish(model, outcome, transfer)
            else:
                self._publish(target, model, outcome, transfer)
            if outcome.reference is not None:
                log(f"target {target.name} holds {outcome.reference}")
        except Transient as error:
            outcome.failed(error.reason, error, retryable=True)
        except (TrainerError, TargetError) as error:
            outcome.failed(error.reason, error, retryable=False)
        except RegistryError as error:
            outcome.failed(Reason.TARGET_REJECTED, error, retryable=False)
        except Stopped as error:
            outcome.failed(error.reason, error, retryable=True)
            raise
        except Exception as error:
            traceback.print_exception(error)
            outcome.failed(Reason.INTERNAL_ERROR, error, retryable=True)
        if outcome.reason is not None:
            log(f"target {target.name} is not complete: {outcome.reason}: {outcome.message}")

    def _publish(
        self, target: PublishTargetRequest, model: Content, outcome: Outcome, transfer: Transfer
    ) -> None:
        outcome.size, outcome.manifest = model.size, model.digest
        lists = _lists(target)
        # The digest of an image covers its files.
        outcome.files = model.digests if target.s3 is not None or lists else None
        if lists:
            log(f"the operator signs the list of files before target {target.name} gets them")
            return
        log(f"publishing {target.what} ({model.size:,} bytes) to target {target.name}")
        publish = _publisher(target)
        failure: Exception | None = None
        with translate_volume_errors(self._layout.work, "publishing"):
            try:
                publish(target, model, outcome, transfer, self._environment)
            except (TargetError, RegistryError, TrainerError) as error:
                # It may quote a server whose own disk is full or broken.
                failure = error
        if failure is not None:
            raise failure


def _lists(target: PublishTargetRequest) -> bool:
    """Report whether a hub gets its files in another attempt, with a statement about them."""
    return target.hugging_face is not None and target.attested == ""


def _publisher(target: PublishTargetRequest) -> Callable[..., None]:
    """Return the function that publishes to the place of a target."""
    if target.oci is not None:
        return oci.publish
    if target.hugging_face is None:
        return s3.publish
    # The client of a hub takes half a second to import.
    from finetune_trainer.publishing.hub import push as hub

    return hub.publish
