"""The process and its machine: device, threads, signals, disk, locks and progress."""
