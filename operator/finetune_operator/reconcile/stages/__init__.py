"""The Jobs of a revision: which stage runs, its attempts, outcomes and preconditions. Pure."""
