"""Publishing in a repository of a hub."""
