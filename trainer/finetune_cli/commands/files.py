"""Verbs on manifests, without a cluster or with what a cluster knows."""

from finetune_cli.commands.command import FILES, Command

VERBS = (
    Command(
        name="validate",
        module="offline.validate",
        panel=FILES,
        summary="check manifests without a cluster",
        description="Check FineTuneJobs, FineTuneProfiles, FineTuneBudgets and FineTuneEndpoints "
        "against the schema and the validation rules, without a cluster, and list every error "
        "with its field and value. Objects of other API groups are ignored. The exit code is 64 "
        "if an object is invalid.",
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
        "budgets allow it. If a file has a FineTuneProfile, the jobs with this profile are "
        "planned, too. Exit codes: 0 nothing is trained, 3 a revision is trained, 4 a job "
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
)
