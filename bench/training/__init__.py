"""Trainings to measure: real rows and a random model, made without network, in processes."""
