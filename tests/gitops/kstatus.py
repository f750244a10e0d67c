"""What kstatus (Flux, kpt, cli-utils) makes of a custom resource, from its documented rules.

Source: kubernetes-sigs/cli-utils, pkg/kstatus/status/{status,generic}.go: a deletion first, then
the generation, then the first of Reconciling, Stalled and Ready that has something to say.
"""

from typing import Any, Literal

Status = Literal["Current", "InProgress", "Failed", "Terminating"]


def of(job: dict[str, Any]) -> Status:
    """Return the status of an object."""
    if "deletionTimestamp" in job["metadata"]:
        return "Terminating"
    status = job.get("status", {})
    if (
        status.get("observedGeneration", job["metadata"]["generation"])
        != (job["metadata"]["generation"])
    ):
        return "InProgress"
    for condition in status.get("conditions", ()):
        match condition["type"], condition["status"]:
            case "Reconciling", "True":
                return "InProgress"
            case "Stalled", "True":
                return "Failed"
    for condition in status.get("conditions", ()):
        if condition["type"] == "Ready":
            return "Current" if condition["status"] == "True" else "InProgress"
    return "Current"
