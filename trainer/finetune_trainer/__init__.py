"""The trainer: prepares, trains and merges one FineTuneJob. It is independent of Kubernetes.

A job has one volume with one folder for each result. A folder is written under a temporary name,
its manifest last, and published by rename. Every command can be killed at any time and run again.
"""
