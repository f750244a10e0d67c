"""Verbs that make, copy or check a model."""

from finetune_cli.commands.command import MODELS, Command

VERBS = (
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
