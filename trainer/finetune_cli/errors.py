"""The errors of commands that no stage of a job has."""


class CommandFailed(Exception):
    """A command failed; the message names the object and the remediation. ``code``: exit code."""

    code: int = 1


class Interrupted(Exception):
    """A transfer ended early, for the reason in the text; it can resume."""
