"""What an edit of a job does: the parts of ``ftj plan``."""
