"""``ftj``, the command line for users: everything that needs no code in the cluster.

Each command is a module with ``add_arguments`` and ``run``. A command imports the libraries that
it needs when it runs, so that the other commands and every ``--help`` work without them.
"""
