"""The planner of FineTuneEndpoints. Pure.

names    attached jobs -> the names that the endpoint must serve, and the signed list of them
base     the attempts to prepare the base
models   the list of names and the report of the gate -> the state of each name
state    all of that -> conditions
plan     a snapshot -> a plan
"""
