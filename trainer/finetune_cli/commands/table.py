"""The table of the verbs, in the order of the help.

The ``module`` of a verb is imported when the verb is called, so that the other verbs and the help
start fast, and work without the libraries that it needs.
"""

from finetune_cli.commands import changes, files, jobs, models

COMMANDS = {
    command.name: command for command in (*files.VERBS, *jobs.VERBS, *changes.VERBS, *models.VERBS)
}
