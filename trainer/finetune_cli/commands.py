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
    each.name: each
    for each in (
        Command(
            name="validate",
            module="validate",
            panel=FILES,
            summary="check manifests without a cluster",
            description="Check FineTuneJobs against the schema and the validation rules, without "
            "a cluster. The command lists every error with its field and value. Objects of other "
            "kinds are ignored. The exit code is 64 if a FineTuneJob is invalid.",
            example="finetune.yaml jobs/",
        ),
        Command(
            name="estimate",
            module="estimate",
            panel=FILES,
            summary="estimate GPU memory, disk space and time",
            description="Estimate GPU memory, disk space and time of a FineTuneJob, without a GPU. "
            "The command downloads only config.json of the base model. For a gated model, set "
            "HF_TOKEN. The exit code is 82 if the job does not fit its GPU.",
            example="finetune.yaml --rows 52000 --tokens 6000000",
        ),
        Command(
            name="import-axolotl",
            module="import_axolotl",
            panel=FILES,
            summary="convert an Axolotl configuration",
            description="Convert an Axolotl configuration to a FineTuneJob. The command prints the "
            "manifest to stdout. To stderr, it prints one line per setting that it does not copy "
            "exactly, and an estimate of the memory.",
            example="qlora.yml > finetune.yaml",
        ),
        Command(
            name="run",
            module="run",
            panel=MODELS,
            summary="prepare, train and merge on this machine",
            description="Prepare, train and merge a FineTuneJob on this machine, without a "
            "cluster. Ctrl-C saves a checkpoint; the same command resumes from this checkpoint. "
            "For gated models and datasets, set HF_TOKEN.",
            example="finetune.yaml --work ~/runs/support",
        ),
        Command(
            name="copy",
            module="copy",
            panel=MODELS,
            summary="copy a model out of the cluster",
            description="Copy the merged model or the adapter of a FineTuneJob to a local folder. "
            "The command uses kubectl with your rights. It creates a pod that mounts the volume "
            "of the job read-only. The command copies the files from this pod, and then deletes "
            "the pod. It checks every file against the digests that training recorded. If the "
            "connection is interrupted, run the command again; complete files are not copied "
            "again.",
            example="support ./support-model",
        ),
        Command(
            name="verify",
            module="verify",
            panel=MODELS,
            summary="check the signature and the files of a published model",
            description="Check a published model with the public key of the operator: the "
            "signature of the statement about it, the digest of each file, and that there are no "
            "other files. The command prints the statement, which says what the model was trained "
            "from and how it was tested. For a folder, it needs no network. Exit codes: 10 no "
            "signed statement, 11 no valid signature of the key, 12 a changed file, 13 a missing "
            "file, 14 an additional file, 15 another base.",
            example="./support-model --key signing.pub --base org/name",
        ),
    )
}
