"""Parts of the texts of conditions and events: quotations and commands.

If a text quotes another component's message, our own explanation comes first, so that the first
words say what happened and what to do. The quoted message follows for the details.
"""

from finetune_operator.types import Object


def sentence(text: str) -> str:
    """Return a quoted message as a sentence, so that another sentence can follow it."""
    return text.rstrip(" .;") + "."


def quoting(explanation: str, source: str, text: str) -> str:
    """Return an explanation, followed by the message of a component if there is one."""
    return f"{explanation} {source}: {sentence(text)}" if text else explanation


def copy_command(job: Object, revision: str, *, merged: bool) -> str:
    """Return the command that copies the model of a revision. merged: or else only its adapter."""
    name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
    part = "" if merged else " --adapter"
    return f"ftj copy {name} DEST -n {namespace} --revision {revision}{part}"
