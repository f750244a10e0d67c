"""The process: log, signals, metrics, threads and the limits of its pod."""
