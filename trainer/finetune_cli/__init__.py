"""``ftj``, the command line for users: everything that needs no code in the cluster.

Each verb of ``commands`` is a module with the function ``run``. It imports large libraries when it
needs them, so that the other verbs and every ``--help`` start fast, and work without them.
"""
