"""The trainer: stages, trains and merges one FineTuneJob. It knows nothing of Kubernetes.

One volume, one folder for each result, each folder published by rename with its manifest written
last. Every command may be killed at any moment and run again.
"""
