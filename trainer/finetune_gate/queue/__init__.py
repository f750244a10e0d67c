"""The queue in front of the engine, which is fair to all names."""
