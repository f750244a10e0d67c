"""Reasons of stages, builds and attempts that have failed."""

from finetune_api.crd.remediations.group import ReasonGroup
from finetune_api.v1alpha1.reasons import Reason

_REUSE = "#reuse-the-downloads-without-the-status"
_COPY = "../how-to/copy-the-model.md#copy-from-a-terminating-volume"
_LOST = "../concepts/finetunejob.md#a-deleted-volume-of-a-finished-job"
_DEFAULTS = "../how-to/tenant-policy.md#give-all-jobs-a-default-credential"
_EGRESS = "../how-to/data-sources.md#network-access"
_SIGNATURES = "../how-to/sign-and-verify-models.md#require-signatures-of-sources"
_LOG = "Read the log of the stage, and correct the cause."
FAILED = ReasonGroup(
    title="Failed",
    about="Change the job, or an object to which it refers; the operator then starts another "
    "attempt. Where the text says that the job continues, no change is needed.",
    texts={
        Reason.INVALID_SPEC: "Change the field that the message names, or upgrade the operator if "
        "this version does not support the field.",
        Reason.NOT_ALLOWED: "Running stages and serving pods continue. Set the field that the "
        "message names to an allowed value, or ask your cluster administrator to change the chart "
        "value ([policy](../how-to/tenant-policy.md)) or the limit of the profile "
        "([profiles](../how-to/profiles.md)). The job then continues.",
        Reason.ADAPTER_NOT_PUBLISHED: "Correct the name or the revision in "
        "`spec.training.startFrom.job`, or let that job [publish its adapter]"
        "(../how-to/publish-models.md), or set the credentials that the message names. The "
        "operator looks for the adapter every 30 seconds, and the job then continues.",
        Reason.PROFILE_NOT_FOUND: "Revisions that have started continue. Set `spec.profile` to a "
        "profile that `kubectl get finetuneprofiles` lists, or create the profile; the job then "
        "continues.",
        Reason.TOO_EXPENSIVE: "No GPU was requested. Raise `runPolicy.maxCost`, limit the training "
        "with `runPolicy.maxGpuSeconds`, shorten it, or choose a cheaper profile "
        "([cost](../how-to/cost.md)).",
        Reason.PRICE_UNKNOWN: "Set `spec.profile` to a profile with a price, or remove "
        "`runPolicy.maxCost`. The price is fixed when a revision starts; to get the present one, "
        "set `rerun`.",
        Reason.PROFILE_INVALID: "Revisions that have started continue. The message has the problem "
        "of the profile, which your cluster administrator must correct; the job then continues.",
        Reason.BUDGET_UNAVAILABLE: "Running stages continue. Your cluster administrator must "
        "correct the budget, or set the chart value `usage.enabled`; the job then continues.",
        Reason.COST_UNKNOWN: "Set `runPolicy.maxGpuSeconds`, or `profile` to a profile with a "
        "price in the currency of the budget, as the message says; the job then continues.",
        Reason.EXCEEDS_BUDGET: "Waiting does not help. Lower `runPolicy.maxGpuSeconds`, train on "
        "fewer rows or epochs, or ask your cluster administrator to enlarge the budget that the "
        "message names; the job then continues.",
        Reason.UNSUPPORTED_VERSION: "The operator changes no object of the job. Run the version "
        "that wrote the ledger (`status.revisions`) or a newer one, or delete and re-create the "
        "job, which then starts from the beginning.",
        Reason.CONFIGURATION_CHANGED: "If the message asks for it, delete the object that it "
        "names. The operator creates it again within five minutes, and the job continues.",
        Reason.FAILED_TO_START: "A ResourceFlavor or an admission check conflicts with the pod: "
        "`kubectl get workloads -n <namespace> -l kueue.x-k8s.io/job-uid=<uid of the Job> -o "
        "yaml`. Kueue does not try again: change `placement` or `queueName` to queue a new "
        "attempt.",
        Reason.ENDPOINT_NOT_FOUND: "Correct `spec.serving.endpointRef`, or create the "
        "FineTuneEndpoint ([shared endpoints](../how-to/shared-endpoint.md)); the job then "
        "continues. The serving build continues to serve.",
        Reason.SIGNING_KEY_MISSING: "Ask your cluster administrator to set the chart value "
        "`provenance.signingKeySecret`.",
        Reason.NAME_CONFLICT: "The operator does not modify the object. Delete it, and the job "
        "continues, or create the job with another name. You can "
        f"[reuse](../how-to/backup.md{_REUSE}) the downloads on a volume of an earlier job. If it "
        "is a model name of a FineTuneEndpoint, set `spec.serving.servedModelNames` to a name "
        "that no other job has and that does not end in `-base`.",
        Reason.DATASET_INVALID: "The message names file and row, or the choices if the source has "
        "several [configurations](../how-to/data-sources.md#configurations-and-splits) or no such "
        "split. Correct the data, or `format`, `columns`, `config` or `split`. For several "
        "configurations in another source than the hub, set `source` to the folder of one of them.",
        Reason.DATASET_NOT_FOUND: "Correct the field `source` or `revision` that the message "
        "names.",
        Reason.MODEL_NOT_FOUND: "Correct `model.source` or `model.revision`.",
        Reason.ACCESS_DENIED: "The message names the cause. (1) The model is gated or private: "
        "accept its license on the hub, store a token of this account in the Secret of "
        "`tokenSecretRef`, and set this field in the job, because a [default "
        f"token]({_DEFAULTS}) applies only where it was configured. (2) A token or key is not one "
        "line of visible ASCII characters: store it under another Secret or key, and change the "
        "reference. (3) The `egress` values do not allow the address: let an administrator change "
        f"them ([network access]({_EGRESS})); the operator then retries the stage.",
        Reason.SOURCE_NOT_SIGNED: "The message names the field, the source, and the file or "
        "signature that does not match. Set the field to content that your administrator has "
        "signed, such as the published model of a job, or ask your administrator to [sign the "
        f"content]({_SIGNATURES}). After `policy.signatures` has changed, the operator retries the "
        "stage.",
        Reason.VOLUME_FULL: "Raise `storage.size` to the size in the message. Kubernetes expands "
        "the volume if the StorageClass supports it.",
        Reason.RESUME_REFUSED: "The message names the folder or file, and the expected digest. To "
        "retrain on a new volume, set `spec.rerun` to a new value.",
        Reason.CUDA_OUT_OF_MEMORY: "Lower `training.sequenceLength` or `training.lora.r`, or use a "
        "GPU with more memory.",
        Reason.DOES_NOT_FIT: "The message contains both numbers. Lower the field that it names "
        "(`training.sequenceLength`, `training.lora.r` or `serving.maxModelLen`), or raise the "
        "limit.",
        Reason.UNSUPPORTED_GPU: "The GPU must be a Turing or later, the driver R580 or later; the "
        "message contains the version that CUDA found. Update the driver, then change a field of "
        "`runPolicy`, or select other nodes with `placement.nodeSelector` or `gpu.products`.",
        Reason.LOSS_DIVERGED: "Lower `training.learningRate`, and check the dataset for outliers.",
        Reason.NOT_MERGEABLE: "Correct the problem in the message. To keep only the adapter, set "
        "`merge.enabled: false`.",
        Reason.BUDGET_EXCEEDED: "Raise `runPolicy.maxGpuSeconds`, or `runPolicy.maxCost` if it is "
        "set; training resumes from its last checkpoint.",
        Reason.OUT_OF_MEMORY: "Raise `resources.<stage>.limits.memory`. The operator has already "
        "tried `merge` again with twice the limit.",
        Reason.TOO_MANY_RESTARTS: "Failures and disruptions both count. Check the node, then raise "
        "`runPolicy.maxRestarts` to at least the number in the message; no other field starts the "
        "stage again. Training resumes from its last checkpoint.",
        Reason.VOLUME_LOST: "A running job restarts with data preparation; a finished job does not "
        f"train again. Save the model with [`ftj copy`]({_COPY}) if serving pods run, revert the "
        "spec to the revision that the message names, or set `spec.rerun` to train on a new "
        "volume. To stop the serving pods, which keep the volume and ignore edits, set "
        f"`serving.replicas` to 0 ([details]({_LOST})).",
        Reason.RETRIES_EXHAUSTED: f"{_LOG} If the cause was temporary, raise "
        "`runPolicy.backoffLimit`.",
        Reason.DEADLINE_EXCEEDED: "The download is slow, the pods did not start, or a chat "
        "template does not end. Raise `runPolicy.prepareDeadlineSeconds`; the download resumes. If "
        "the log shows no progress, correct `dataset.chatTemplate`.",
        Reason.RESULT_MISSING: "Read the log of the stage, and check that the chart value "
        "`trainer.image` is the trainer image of this operator.",
        Reason.INTERNAL_ERROR: "Report the bug, with the traceback from the log of the stage.",
        Reason.FAILED: _LOG,
        Reason.EVAL_GATE_FAILED: "Its held-out loss is more than two standard errors higher. "
        "Correct the data or the recipe. To serve it anyway, set the field that the message names "
        "(`evaluation.onRegression` or `onServingRegression`) to `Serve`.",
        Reason.VERIFICATION_FAILED: "Digests, tokens or log-probabilities differ; the message "
        "contains the numbers. Compare the serving image, its arguments and `serving.dtype` with "
        "the defaults of the chart. Log: `kubectl logs -n <namespace> <pod> -c verify`.",
        Reason.PUBLISH_FAILED: "Follow the remediation of the error in `status.publish`. To try "
        "again, change an entry of `publish`. The model is served all the same.",
        Reason.PUBLISH_WITHHELD: "The message contains the losses, or the outcome of the "
        "verification. Improve the model; or set `evaluation.onRegression` to `Serve`, or `allow` "
        "of the target to this outcome.",
        Reason.TARGET_CONFLICT: "Another job or a person has published under this name: choose "
        "another repository or tag, or set `overwrite` to true to move the tag. The name of a "
        "revision, `<job>-<revision>-adapter` or `<job>-<revision>-<build>-merged`, never moves.",
        Reason.TARGET_REJECTED: "The message quotes the answer of the registry or of the S3 "
        "service. Frequent causes are a quota, a limit of the size, and a read-only repository.",
        Reason.ROLLOUT_FAILED: "Follow the remediation of the reason in the message. To try again, "
        "change a field of `serving`; to keep the previous build, revert your change.",
        Reason.ENDPOINT_DOWN: "A node is lost, no GPU is free, or a container exits repeatedly: "
        "`kubectl describe pod -n <namespace> <pod>`. If there is no pod, a quota or policy may "
        "prevent it: `kubectl describe rs -n <namespace>`. The endpoint recovers when the cause is "
        "gone.",
        Reason.PROGRESS_DEADLINE_EXCEEDED: "Read the log of the serving pod. A frequent cause is a "
        "`serving.maxModelLen` that is too large for the GPU.",
    },
)
RETRIED = ReasonGroup(
    title="Retried",
    about="Only a pod or an attempt has ended, and the job continues. These reasons are in "
    "`status.revisions`, in events and in logs.",
    texts={
        Reason.JOB_DELETED: "The next attempt resumes from the last checkpoint. To pause a job, "
        "set `suspend: true` instead.",
        Reason.JOB_REPLACED: "The operator deletes the other Job and ignores its result. Find its "
        "client in the audit log, and restrict the permission of this client to create Jobs.",
        Reason.TRANSIENT: "The hub was unavailable, a download was interrupted, a disk failed "
        "(EIO), or a NetworkPolicy blocks the source. The Job starts up to "
        "`runPolicy.backoffLimit` more pods. Allow a source in the cluster, at a private address "
        f"or on another port than 443 in the `egress` values ([network access]({_EGRESS})).",
        Reason.STOPPED: "The pod was evicted or preempted, or you paused the job. The next attempt "
        "resumes from the last checkpoint.",
    },
)
