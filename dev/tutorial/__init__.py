"""The tutorial: a script of commands that runs on the local cluster, and the page made from it.

``lesson`` is the script. ``runner`` runs its commands as a reader would type them and checks each
output. ``page`` renders docs/getting-started/tutorial.md from the recorded outputs.
"""
