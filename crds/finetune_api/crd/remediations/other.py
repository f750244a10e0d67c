"""Reasons in events, in further conditions, in those of other kinds, and in the operator's log."""

from finetune_api.crd.remediations.group import ReasonGroup
from finetune_api.v1alpha1.reasons import Reason

EVENTS = ReasonGroup(
    title="Events",
    about="These reasons appear only in events. A job without incidents has four: `DataReady`, "
    "`Trained`, `Merged` and `Serving`.",
    texts={
        Reason.DATA_READY: "",
        Reason.TRAINED: "",
        Reason.MERGED: "",
        Reason.PUBLISHED: "`status.publish` has the reference and the digest of each target.",
        Reason.SUPERSEDED: "The message names the Job, and what the spec describes instead. If you "
        "revert the edit, the job continues with its earlier revision and the last checkpoint.",
        Reason.WARNING_RAISED: "Examples are few training steps, dropped rows, and a model that is "
        "worse than the serving model. The job continues. To list the warnings, run `kubectl get "
        "ftj <name> -o jsonpath='{.status.warnings}'`.",
        Reason.GPU_RELEASE_PLANNED: "`status.serving.releasePlannedAt` has the time, too. To keep "
        "the endpoint available, set `serving.rollout: KeepServing` before it.",
        Reason.RELEASE_DID_NOT_HELP: "The build keeps its GPU for the rest of the revision. The "
        "message of `Ready` states why the train pod does not start. To release the GPU again, set "
        "`serving.rollout: FreeGPU`.",
        Reason.DRIFT_CORRECTED: "The event names the client. To change a Deployment, Service or "
        "NetworkPolicy of the job, change its spec.",
    },
)
OTHER = ReasonGroup(
    title="Other conditions",
    about="The condition of a stage has one of the reasons above, or one of these, as have the "
    "conditions `Suspended` and `Serving`.",
    texts=dict.fromkeys(
        (
            Reason.PENDING,
            Reason.RUNNING,
            Reason.FINISHED,
            Reason.AVAILABLE,
            Reason.NOT_AVAILABLE,
            Reason.GPU_RELEASED,
            Reason.DISABLED,
        ),
        "",
    ),
)
PROFILES = ReasonGroup(
    title="Condition Valid of a FineTuneProfile",
    about="While a profile is not valid, jobs start no new revision with it. The message names the "
    "field.",
    texts={
        Reason.VALID: "No action.",
        Reason.INVALID_DEFAULTS: "Correct `spec.defaults`: it is a partial spec of a FineTuneJob, "
        "and its values must be allowed by the chart value `policy` and by the limits of the "
        "profile.",
        Reason.INVALID_LIMITS: "Correct the pattern that the message names. Until then, jobs with "
        "the profile start no stage.",
        Reason.TOO_LARGE: "Set long values, such as `dataset.chatTemplate`, in the jobs instead.",
    },
)
BUDGETS = ReasonGroup(
    title="Conditions of a FineTuneBudget",
    about="`Valid` says whether the budget applies, `Exhausted` how much of it is left. The "
    "message has the numbers.",
    texts={
        Reason.USAGE_DISABLED: "Set the chart value `usage.enabled` to true, or delete the budget. "
        "Until then, no job of its namespaces starts to train.",
        Reason.NO_NAMESPACES: "The budget limits nothing. Correct `spec.namespaceSelector`, or "
        "label the namespaces. A new label counts within a minute.",
        Reason.WITHIN_BUDGET: "No action.",
        Reason.NEAR_LIMIT: "Inform the teams, or enlarge the budget.",
        Reason.EXHAUSTED: "Jobs wait for the next period. Enlarge the budget if they must not "
        "wait. `spec.onExhausted` decides about running jobs.",
    },
)
ENDPOINTS = ReasonGroup(
    title="Conditions of a FineTuneEndpoint",
    about="`Ready` is True while the endpoint serves every model that it can. `status.models` has "
    "the state of each model. Reasons about pods and volumes are those of jobs.",
    texts={
        Reason.PREPARING_BASE: "No action. The pod needs no GPU.",
        Reason.VERIFYING: "No action. The message names the models.",
        Reason.WANTED_SET_REFUSED: "The message says why. The reason is common for a moment after "
        "the signing key was replaced. If it lasts, delete the pod of the endpoint.",
    },
)

LOGS = ReasonGroup(
    title="Log of the operator",
    about="",
    texts={
        Reason.CRD_MISSING: "The operator exits. Run `kubectl apply --server-side -f "
        "crds/finetune.dev_finetunejobs.yaml`.",
        Reason.API_UNAVAILABLE: "No action: the delays between the attempts grow to one minute. "
        "If `waiting for the API server` repeats after a start, the NetworkPolicy of the operator "
        "may block its port: add it to the chart value `networkPolicy.apiServerPorts`.",
        Reason.NOT_FOUND: "No action: the next reconcile detects the deletion.",
        Reason.NOT_LEADING: "No action: the leader reconciles the job.",
        Reason.CONFLICT: "No action: the operator reconciles the job again at once.",
        Reason.ERROR: "Correct the problem that the message describes.",
    },
)
