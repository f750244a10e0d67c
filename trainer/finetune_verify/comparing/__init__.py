"""Statistics of log-probabilities: differences, their errors, and the effect of tuning. Pure."""
