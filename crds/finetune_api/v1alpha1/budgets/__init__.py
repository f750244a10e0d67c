"""GPU time and cost of namespaces: the kinds FineTuneBudget and FineTuneUsage."""
