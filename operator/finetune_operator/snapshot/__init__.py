"""The observed state of a job: live reads, the cache, and metrics scraped from its pods. I/O."""
