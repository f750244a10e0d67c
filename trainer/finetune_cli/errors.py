"""The errors of commands that no stage of a job has."""


class CommandFailed(Exception):
    """A command failed; the message names the object and the remediation. ``code``: exit code."""

    code: int = 1


class WrongCall(CommandFailed):
    """Arguments that exclude each other, or lack one; as argument parsers, with exit code 2."""

    code = 2


class Interrupted(Exception):
    """A transfer ended early, for the reason in the text; it can resume."""
