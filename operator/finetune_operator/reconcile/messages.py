"""Text of conditions and events that quote another component's message.

Our own explanation comes first, so that the first words say what happened and what to do. The
quoted message follows for the details.
"""


def sentence(text: str) -> str:
    """Return a quoted message as a sentence, so that another sentence can follow it."""
    return text.rstrip(" .;") + "."


def quoting(explanation: str, source: str, text: str) -> str:
    """Return an explanation, followed by the message of a component if there is one."""
    return f"{explanation} {source}: {sentence(text)}" if text else explanation
