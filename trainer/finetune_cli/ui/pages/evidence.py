"""What the cluster shows about a job: its pod, events and the last lines of a log."""

from collections.abc import Sequence

from finetune_cli.cluster import pods
from finetune_cli.ui.pages.html import Child
from finetune_cli.ui.pages.layout import note, pairs, preformatted, state, table
from finetune_cli.ui.reading.job import Event, Log, Object
from finetune_cli.ui.reading.rights import Part


def pod(found: Part[Object]) -> Child:
    """Return the pod of the stage that matters."""
    if found.problem:
        return note(found.problem, "problem")
    if not found.value:
        return note("The present stage has no pod.")
    status = found.value.get("status") or {}
    rows: list[tuple[str, Child]] = [
        ("Name", str(found.value["metadata"]["name"])),
        ("Phase", status.get("phase")),
        ("Node", (found.value.get("spec") or {}).get("nodeName")),
        ("Scheduler", pods.not_scheduled(found.value)),
        *(
            (f"Container {container.name}", container.text)
            for container in pods.containers(found.value)
        ),
    ]
    return pairs(rows)


def events(found: Part[Sequence[Event]]) -> Child:
    """Return the newest events."""
    if found.problem:
        return note(found.problem, "problem")
    if not found.value:
        return note("There are no events; the API server deletes them after some time.")
    rows = [
        (
            event.time,
            state(event.type, "waiting" if event.type == "Warning" else "running"),
            event.reason,
            event.about,
            event.message,
        )
        for event in found.value
    ]
    head = ("Time", "Type", "Reason", "Object", "Message")
    return table("Events, the newest first", head, rows)


def log(found: Part[Log | None]) -> Child:
    """Return the last lines of a log, as text."""
    if found.problem:
        return note(found.problem, "problem")
    if found.value is None:
        return note("The present stage has no pod.")
    title = f"The last lines of pod {found.value.pod}, container {found.value.container}:"
    return note(title), preformatted(found.value.text or "(empty)", "Log", "log")
