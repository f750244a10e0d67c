"""The control loop: watches, work queue, reconcile, apply. I/O."""
