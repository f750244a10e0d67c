"""docs/reference/cli.md: the help of each verb, and examples with the output of the tool.

The examples run against a server that has a few objects (``example_objects.py``), at a fixed time.
"""
