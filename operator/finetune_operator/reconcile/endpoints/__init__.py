"""The planner of FineTuneEndpoints. Pure.

names    attached jobs -> the names that the endpoint must serve, and the signed list of them
base     the attempts to prepare the base
volume   the claim with the base and the adapters
folders  the jobs that may have files on it -> those of deleted jobs are removed
serving  the pod, and the objects that it needs
models   the list of names and the report of the gate -> the state of each name
revocation
         the names that are removed while an endpoint cannot be planned
state    all of that -> one word, and conditions
status   all of that -> the status
plan     a snapshot -> a plan
confirmation
         a plan -> the live reads that it needs
"""
