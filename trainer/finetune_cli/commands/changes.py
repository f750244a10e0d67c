"""Verbs that change a job of a cluster."""

from finetune_cli.commands.command import CLUSTER, Command

VERBS = (
    Command(
        name="pause",
        module="jobs.changing.pause",
        panel=CLUSTER,
        summary="suspend a job; training saves a checkpoint",
        description="Suspend a FineTuneJob: set spec.suspend to true. The operator stops the "
        "running stage, and training saves a checkpoint. A model that is served continues to "
        "be served.",
        example="support",
    ),
    Command(
        name="resume",
        module="jobs.changing.resume",
        panel=CLUSTER,
        summary="continue a job that is suspended",
        description="Continue a suspended FineTuneJob from its last checkpoint: set "
        "spec.suspend to false.",
        example="support",
    ),
    Command(
        name="retry",
        module="jobs.changing.retry",
        panel=CLUSTER,
        summary="start another attempt of a failed stage",
        description="Start another attempt of the stage that has failed, with the files that "
        "are already on the volume: raise spec.runPolicy.maxRestarts, because a change of this "
        "field retries a failed stage.",
        example="support",
    ),
    Command(
        name="rerun",
        module="jobs.changing.rerun",
        panel=CLUSTER,
        summary="train the same recipe again",
        description="Train a new revision with the same recipe, for example after you have "
        "corrected the rows in a ConfigMap: set spec.rerun to the current time.",
        example="support",
    ),
    Command(
        name="wake",
        module="jobs.changing.wake",
        panel=CLUSTER,
        summary="start an endpoint that sleeps",
        description="Start the endpoint of a FineTuneJob whose serving pods were stopped "
        "because the endpoint was idle: set the annotation finetune.dev/wake to the current "
        "time.",
        example="support",
    ),
    Command(
        name="rollback",
        module="jobs.changing.rollback",
        panel=CLUSTER,
        summary="return to an earlier revision",
        description="Print the change of the spec that returns a FineTuneJob to an earlier "
        "revision, and whether it is trained again. With --apply, make the change after you "
        "have confirmed it. If Argo CD or Flux applies the job from Git, commit the change "
        "there instead.",
        example="support 88d82457",
    ),
)
