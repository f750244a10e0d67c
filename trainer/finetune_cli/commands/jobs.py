"""Verbs that show jobs of a cluster, and ask their models."""

from finetune_cli.commands.command import CLUSTER, Command

VERBS = (
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
        "verification. With serving.mode: adapter or shared, NAME-base is the base model of a job.",
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
)
