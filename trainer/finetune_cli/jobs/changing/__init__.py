"""The verbs that change a FineTuneJob."""
