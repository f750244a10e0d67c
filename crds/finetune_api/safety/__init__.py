"""Text and files that others control, and credentials in what a process writes."""
