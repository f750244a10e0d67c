"""The FineTuneJob resource, version v1alpha1: one module for each group of fields."""
