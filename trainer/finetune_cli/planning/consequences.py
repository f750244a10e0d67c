"""What an edit discards and reuses, and what happens to the endpoint, as sentences. Pure."""

from collections.abc import Collection

from finetune_api.contracts.cost import hours
from finetune_api.defaulting import Resolved
from finetune_api.durations import duration
from finetune_api.edits.effects import Effect, RecordedRevisions
from finetune_api.outcome import serves, shares
from finetune_api.v1alpha1.endpoints.spec import ENDPOINT_KIND
from finetune_api.v1alpha1.spec import FineTuneJobSpec
from finetune_api.v1alpha1.status.ledger import Revision
from finetune_cli.planning.state import Object, group

NO_ENDPOINT = "The job has no endpoint."


def discarded(status: Object, record: Revision | None) -> str | None:
    """Return what another revision stops, None if it stops nothing. record: of the present one."""
    if record is None:
        return None
    unfinished = [
        attempt for attempt in record.stages if attempt.outcome in ("Starting", "Running")
    ]
    if not unfinished:
        return None
    stage = unfinished[-1].stage
    if stage != "train":
        return f"The stage {stage} of revision {record.revision} is stopped."
    progress = group(status, "training")
    step, steps = progress.get("globalStep", 0), progress.get("maxSteps")
    used = hours(int(record.gpu_seconds or progress.get("gpuSeconds") or 0))
    saved = progress.get("lastCheckpointStep")
    kept = (
        f"its checkpoint of step {saved} is used only if you undo the edit"
        if saved
        else "it has no checkpoint yet"
    )
    of_all = f" of {steps}" if steps else ""
    return (
        f"Training of revision {record.revision} stops at step {step}{of_all}, after {used} "
        f"GPU-hours; {kept}."
    )


def returned(before: Resolved, after: Resolved, ledger: RecordedRevisions) -> str:
    """Return what is reused of a revision that the edit returns to, empty if there is none."""
    record = ledger.record(after.digest)
    if record is None or after.digest == before.digest:
        return ""
    if ledger.is_trained(after.digest):
        return f"The job returns to revision {record.revision}, which is trained already."
    return f"The job returns to revision {record.revision}, and resumes its training."


def endpoint(
    effects: Collection[Effect], before: Resolved | None, after: Resolved, status: Object
) -> str:
    """Return what happens to the endpoint of a job, as a sentence."""
    spec = after.spec
    if shares(spec) or (before is not None and shares(before.spec)):
        return _of_shared(before, after)
    if before is None:
        return "The endpoint starts after training." if serves(spec) else NO_ENDPOINT
    if not serves(spec):
        return "The endpoint stops." if serves(before.spec) else NO_ENDPOINT
    if not serves(before.spec):
        return "The endpoint starts."
    if spec.suspend and not before.spec.suspend:
        return "A model that is served continues to be served while the job is suspended."
    reported = group(status, "serving")
    serving = reported.get("build")
    if after.build_digest != before.build_digest and serving != after.build:
        if reported and serving is None:
            return "No model answers at present: the endpoint starts when the new one is verified."
        return _of_another_build(effects, spec)
    if Effect.ROLL in effects:
        if spec.serving.replicas > 1:
            return "The pods are replaced one after the other, without an interruption."
        return "The endpoint is down while the new pod loads the model, usually for minutes."
    return "The endpoint is not affected."


def endpoint_of_removed(before: Resolved) -> str:
    """Return what happens to the endpoint of a job that is deleted, as a sentence."""
    if shares(before.spec):
        return f"The {ENDPOINT_KIND} {_endpoint(before.spec)} serves the model no longer."
    return "The endpoint stops." if serves(before.spec) else NO_ENDPOINT


def _of_shared(before: Resolved | None, after: Resolved) -> str:
    """Return what happens to the endpoint of a job that a FineTuneEndpoint serves, or served."""
    old, new = (
        None if resolved is None else _endpoint(resolved.spec) for resolved in (before, after)
    )
    if new is None:
        until = "until the new pods are verified" if serves(after.spec) else "no longer"
        return f"The {ENDPOINT_KIND} {old} serves the model {until}."
    if before is None:
        return f"The {ENDPOINT_KIND} {new} serves the adapter after training."
    if serves(before.spec):
        return f"The present pods answer until the {ENDPOINT_KIND} {new} serves the adapter."
    if old != new:
        return f"The {ENDPOINT_KIND} {new} serves the adapter when it is verified there."
    if before.digest != after.digest:
        return (
            f"The {ENDPOINT_KIND} {new} serves the present adapter until the new one is verified."
        )
    return "The endpoint is not affected."


def _endpoint(spec: FineTuneJobSpec) -> str | None:
    """Return the name of the FineTuneEndpoint of a job, None without one."""
    reference = spec.serving.endpoint_ref
    return reference.name if shares(spec) and reference is not None else None


def _of_another_build(effects: Collection[Effect], spec: FineTuneJobSpec) -> str:
    """Return what happens while a new build is made and verified."""
    none = "The present model answers until the new one is verified."
    serving, wait = spec.serving, duration(spec.serving.release_after_seconds)
    pending = duration(spec.run_policy.pending_deadline_seconds)
    if Effect.RETRAIN not in effects:
        release = {"Auto": f"after {wait}", "FreeGPU": "at once", "KeepServing": f"after {pending}"}
        when = release[serving.rollout]
        return (
            f"{none} Without a free GPU, the present pods stop {when}, and the endpoint is down "
            "until the new pods are verified."
        )
    if serving.rollout == "KeepServing":
        return f"{none} Without a free GPU, training waits."
    when = f"after {wait}" if serving.rollout == "Auto" else "at once"
    return (
        f"{none} Without a free GPU, the present pods stop {when}, and the endpoint is down during "
        "training, merge and verification."
    )
