"""Whether a base, a recipe, a training library and the cards of a job fit together."""
