"""The effect of an edit of a job, before it is made. Pure.

The operator selects a revision with ``retained``, and ``ftj plan`` predicts with all modules.
"""
