"""Text from outside as one line without control characters, for messages, logs and status."""


def printable(text: str) -> str:
    """Return a text as one line: white space collapsed, control characters escaped.

    Control characters include those that change the direction of the text or erase a line in a
    terminal. A file name of a repository, or a message of a compromised pod, may contain them.
    """
    return escaped(" ".join(text.split()))


def escaped(text: str, *, keep: str = "") -> str:
    """Return a text with its control characters escaped, except those in ``keep``."""
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in keep
        else character.encode("unicode_escape").decode()
        for character in text
    )
