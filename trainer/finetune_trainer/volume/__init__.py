"""Files on the volume of a job: free space, errors, the lock and durable writes."""
