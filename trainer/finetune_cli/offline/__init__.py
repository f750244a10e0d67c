"""The verbs that need no cluster, and the FineTuneJob in a file that they read."""
