"""The demo of ``make run``: a job, its progress, and questions to the tuned model."""
