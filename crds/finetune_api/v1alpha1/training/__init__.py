"""``spec.training``: the recipe, its advanced settings, the adapter, and where training starts."""
