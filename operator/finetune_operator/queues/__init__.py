"""The queues of Kueue, as far as a job depends on them. Pure.

The operator reads them only if the chart value ``kueue.enabled`` is true. Without it, the train Job
alone shows that Kueue holds it.
"""
