"""GPUs and CPUs: the cards, what they can compute, and the recipes that they can run."""
