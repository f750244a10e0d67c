"""Text of conditions and events that quote another component's message."""


def sentence(text: str) -> str:
    """Return a quoted message as a sentence, so that another sentence can follow it."""
    return text.rstrip(" .;") + "."
