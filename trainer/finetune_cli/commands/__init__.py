"""The verbs of ``ftj``, with their texts for users."""
