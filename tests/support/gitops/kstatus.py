"""Status of a custom resource by the documented rules of kstatus (Flux, kpt, cli-utils).

Source: kubernetes-sigs/cli-utils, pkg/kstatus/status/{status,generic}.go: first the deletion, then
the generation, then Reconciling and Stalled in the order of the conditions, then Ready.
"""

from typing import Any, Literal

Status = Literal["Current", "InProgress", "Failed", "Terminating"]


def of(job: dict[str, Any]) -> Status:
    """Return the kstatus of an object."""
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
