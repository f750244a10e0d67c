"""The command-line tool as one archive per platform, without Python, and its krew manifest."""
