"""The expected health of a job in each situation, in Argo CD and in kstatus."""

from tests.support.gitops.situations import SITUATIONS, job_in

JOBS = {name: job_in(name) for name in SITUATIONS}
ROWS = {
    ("Progressing", "InProgress"): (
        "unobserved",
        "edited",
        "preparing",
        "training",
        "merging",
        "starting",
        "queued",
        "preempted",
        "secret-missing",
        "unschedulable-for-long",
        "endpoint-lost",
    ),
    ("Suspended", "InProgress"): ("suspended", "suspended-before-start"),
    ("Degraded", "Failed"): (
        "secret-missing-for-long",
        "invalid-spec",
        "failed-to-start",
        "dataset-invalid",
        "cuda-out-of-memory",
        "budget-exceeded",
        "retries-exhausted",
        "endpoint-down",
        "candidate-failed",
    ),
    ("Healthy", "Current"): (
        "completed",
        "serving",
        "serving-and-suspended",
        "serving-without-requests",
    ),
}
EXPECTED = {name: both for both, found in ROWS.items() for name in found}
