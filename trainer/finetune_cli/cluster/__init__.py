"""What the verbs on a cluster share: access with the user's own rights, and facts about objects."""
