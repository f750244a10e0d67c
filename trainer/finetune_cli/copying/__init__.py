"""``ftj copy``: copies a model from the volume of a job, with the rights of the user.

``selection`` and ``pod`` are pure; ``kubectl`` and ``transfer`` do the work.
"""
