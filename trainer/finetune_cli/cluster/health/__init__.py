"""What FineTuneJobs need of a cluster, and what is missing."""
