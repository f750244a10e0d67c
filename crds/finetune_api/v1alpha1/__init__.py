"""The FineTuneJob resource, version v1alpha1: one module or package for each group of fields."""
