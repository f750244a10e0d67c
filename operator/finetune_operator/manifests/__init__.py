"""The objects that a job owns, as dicts. Pure: the same inputs give the same objects."""
