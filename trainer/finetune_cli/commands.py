"""The table of the verbs of ``ftj``, with their texts for users.

``module`` is imported when the verb is called, so that the other verbs and the help start fast, and
work without the libraries that it needs.
"""

from dataclasses import dataclass

FILES, CLUSTER, MODELS = "Manifests and estimates", "Jobs in a cluster", "Models"
"""Panels of the help."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A verb: its module has a function ``run``, whose parameters are arguments and options."""

    name: str
    module: str
    panel: str
    summary: str
    description: str
    example: str


COMMANDS = {
    command.name: command
    for command in (
        Command(
            name="validate",
            module="offline.validate",
            panel=FILES,
            summary="check manifests without a cluster",
            description="Check FineTuneJobs against the schema and the validation rules, without "
            "a cluster, and list every error with its field and value. Objects of other kinds are "
            "ignored. The exit code is 64 if a FineTuneJob is invalid.",
            example="finetune.yaml jobs/",
        ),
        Command(
            name="estimate",
            module="offline.estimate",
            panel=FILES,
            summary="estimate GPU memory, disk space and time",
            description="Estimate GPU memory, disk space and time of a FineTuneJob, without a GPU. "
            "Of the base model, only config.json is downloaded. For a gated model, set HF_TOKEN. "
            "The exit code is 82 if the job does not fit its GPU.",
            example="finetune.yaml --rows 52000 --tokens 6000000",
        ),
        Command(
            name="plan",
            module="jobs.plan",
            panel=FILES,
            summary="show what an edit would do, before it is applied",
            description="Compare FineTuneJobs in files with a cluster, or with a stored state. "
            "Print for each changed field what the operator repeats, the progress that is lost, "
            "what happens to the endpoint, GPU-hours and cost, and whether GPU memory, limits and "
            "budgets allow it. Exit codes: 0 nothing is trained, 3 a revision is trained, 4 a job "
            "will be rejected, 64 a job is not valid.",
            example="support.yaml --state before.yaml -o markdown",
        ),
        Command(
            name="import-axolotl",
            module="offline.import_axolotl",
            panel=FILES,
            summary="convert an Axolotl configuration",
            description="Convert an Axolotl configuration to a FineTuneJob. Print the manifest to "
            "stdout, and to stderr one line per setting that is not copied exactly, and an "
            "estimate of the memory.",
            example="qlora.yml > finetune.yaml",
        ),
        Command(
            name="init",
            module="jobs.init",
            panel=FILES,
            summary="print a minimal manifest",
            description="Print a minimal manifest of a FineTuneJob, with a profile if you name "
            "one. The comments name the profiles of the cluster in your kubeconfig, or say why "
            "they are not known.",
            example="support --model hf://org/base --dataset hf://org/rows > finetune.yaml",
        ),
        Command(
            name="status",
            module="jobs.status",
            panel=CLUSTER,
            summary="show the state of a job, or of several",
            description="Show the state of a FineTuneJob: the whole message, its stages with "
            "attempts and durations, warnings, the endpoint, and, if it waits for a GPU, the pods "
            "that use the GPUs. With several names, list these jobs; without a name, those of the "
            "namespace.",
            example="support",
        ),
        Command(
            name="watch",
            module="jobs.watch",
            panel=CLUSTER,
            summary="follow jobs until they are finished",
            description="Follow FineTuneJobs until all of them are finished, by default those of "
            "the namespace that are not: on a terminal with a bar per stage, elsewhere with a line "
            "per change. The exit code is 0 if all are ready, "
            "and 1 if one has failed.",
            example="support billing",
        ),
        Command(
            name="why",
            module="jobs.why",
            panel=CLUSTER,
            summary="explain the state of a job, with the remedy",
            description="Explain the state of a FineTuneJob: the message and the meaning of its "
            "reason, frequent causes with their remedy, and the evidence: the attempt of the "
            "stage, its pod and containers, the newest warning events, and the last lines of the "
            "log of a container that has failed.",
            example="support",
        ),
        Command(
            name="logs",
            module="jobs.logs",
            panel=CLUSTER,
            summary="print the log of the stage that matters",
            description="Print the log of a FineTuneJob: of the stage that has failed, otherwise "
            "of the one that runs, otherwise of the last one.",
            example="support --follow",
        ),
        Command(
            name="curve",
            module="jobs.curve",
            panel=CLUSTER,
            summary="plot the losses of a training",
            description="Plot the training loss and the held-out loss of a FineTuneJob: while it "
            "is trained, from its pod through a port-forward, and afterwards from its status, "
            "which has at most 60 points of each revision. With two revisions, compare them.",
            example="support --follow",
        ),
        Command(
            name="diff",
            module="jobs.diff",
            panel=CLUSTER,
            summary="compare two revisions of a job",
            description="Compare two revisions of a FineTuneJob: the fields of the resolved spec "
            "and of the configuration of the operator that differ, and the results, such as "
            "held-out losses with their standard error, GPU-hours and cost.",
            example="support 0f41aa9e 88d82457",
        ),
        Command(
            name="cost",
            module="jobs.cost",
            panel=CLUSTER,
            summary="show GPU-hours and cost",
            description="Show the GPU-hours and the cost of the trainings of a FineTuneJob, by "
            "revision. Without a name, show those of all jobs of the namespace, and the usage of "
            "the namespace by month, with its serving pods, if you may list FineTuneUsages.",
            example="support",
        ),
        Command(
            name="chat",
            module="jobs.asking.chat",
            panel=CLUSTER,
            summary="ask the served model",
            description="Ask the served model of a FineTuneJob, and print its answer as it "
            "arrives. A port-forward connects to a pod that answers requests, so its model is "
            "verified. If the endpoint needs an API key, set FTJ_API_KEY, or enter the key when "
            "you are asked for it.",
            example="support 'How do I reset my password?'",
        ),
        Command(
            name="compare",
            module="jobs.asking.compare",
            panel=CLUSTER,
            summary="ask several served models the same",
            description="Send the same prompts to several served models, and show their answers "
            "side by side. Only verified models are asked: never a candidate before its "
            "verification. With serving.mode: adapter, NAME-base is the base model of a job.",
            example="support support-base -m 'How do I reset my password?'",
        ),
        Command(
            name="ui",
            module="jobs.ui",
            panel=CLUSTER,
            summary="show the jobs in a browser",
            description="Serve pages about jobs, budgets and profiles on 127.0.0.1 until Ctrl-C, "
            "with the rights of your kubeconfig. Print their address, and a code for one login.",
            example="--port 8321",
        ),
        Command(
            name="gpus",
            module="jobs.gpus",
            panel=CLUSTER,
            summary="show which pods use the GPUs",
            description="Show which pods use the GPUs of the cluster or wait for one, with their "
            "FineTuneJobs. If you may not list the pods of all namespaces, show those of your "
            "namespace.",
            example="",
        ),
        Command(
            name="doctor",
            module="jobs.doctor",
            panel=CLUSTER,
            summary="check what the cluster lacks",
            description="Check what FineTuneJobs need: the version of Kubernetes, the CRDs, the "
            "operator, nodes with GPUs and their labels, a StorageClass, profiles, quotas, Kueue, "
            "and your rights. Each problem has a remedy. The exit code is 1 if a requirement is "
            "not met. What you may not read is unknown.",
            example="-n team-a",
        ),
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
        Command(
            name="run",
            module="offline.run",
            panel=MODELS,
            summary="prepare, train and merge on this machine",
            description="Prepare, train and merge a FineTuneJob on this machine, without a "
            "cluster. Ctrl-C saves a checkpoint; the same command resumes from this checkpoint. "
            "For gated models and datasets, set HF_TOKEN.",
            example="finetune.yaml --work ~/runs/support",
        ),
        Command(
            name="copy",
            module="copying.copy",
            panel=MODELS,
            summary="copy a model out of the cluster",
            description="Copy the merged model or the adapter of a FineTuneJob to a local folder. "
            "With kubectl and your rights, create a pod that mounts the volume of the job "
            "read-only, copy the files from this pod, and delete it. Every file is checked against "
            "the digests that training recorded. If the connection is interrupted, run ftj copy "
            "again; complete files are not copied again.",
            example="support ./support-model",
        ),
        Command(
            name="verify",
            module="verifying.verify",
            panel=MODELS,
            summary="check the signature and the files of a published model",
            description="Check a published model with the public key of the operator: the "
            "signature of the statement about it, the digest of each file, and that there are no "
            "other files. Print the statement, which says what the model was trained from and how "
            "it was tested. For a folder, no network is needed; files in a registry or a bucket "
            "are read without being stored. Exit codes: 10 no signed statement, 11 no "
            "valid signature of the key, 12 a changed file, 13 a missing file, 14 an additional "
            "file, 15 another base.",
            example="./support-model --key signing.pub --base org/name",
        ),
    )
}
