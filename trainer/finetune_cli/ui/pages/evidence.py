"""What the cluster shows about a job: its pod, events and the last lines of a log."""

from collections.abc import Sequence

from finetune_cli.cluster import pods
from finetune_cli.ui.pages.html import Child
from finetune_cli.ui.pages.layout import note, pairs, preformatted, state, table
from finetune_cli.ui.reading.job import Event, Log, Object
from finetune_cli.ui.reading.rights import Part


def pod(part: Part[Object]) -> Child:
    """Return the pod of the stage that matters."""
    if part.problem:
        return note(part.problem, "problem")
    if not part.value:
        return note("The present stage has no pod.")
    status = part.value.get("status") or {}
    rows: list[tuple[str, Child]] = [
        ("Name", str(part.value["metadata"]["name"])),
        ("Phase", status.get("phase")),
        ("Node", (part.value.get("spec") or {}).get("nodeName")),
        ("Scheduler", pods.not_scheduled(part.value)),
        *(
            (f"Container {container.name}", container.text)
            for container in pods.containers(part.value)
        ),
    ]
    return pairs(rows)


def events(part: Part[Sequence[Event]]) -> Child:
    """Return the newest events."""
    if part.problem:
        return note(part.problem, "problem")
    if not part.value:
        return note("There are no events; the API server deletes them after some time.")
    rows = [
        (
            event.time.replace("T", " ").removesuffix("Z"),
            state(event.type, "waiting" if event.type == "Warning" else "running"),
            event.reason,
            event.about,
            event.message,
        )
        for event in part.value
    ]
    head = ("Time (UTC)", "Type", "Reason", "Object", "Message")
    return table("Events, the newest first", head, rows)


def log(part: Part[Log | None]) -> Child:
    """Return the last lines of a log, as text."""
    if part.problem:
        return note(part.problem, "problem")
    if part.value is None:
        return note("The present stage has no pod.")
    title = f"The last lines of pod {part.value.pod}, container {part.value.container}:"
    return note(title), preformatted(part.value.text or "(empty)", "Log", "log")
