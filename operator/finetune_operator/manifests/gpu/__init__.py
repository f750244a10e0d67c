"""The GPU in a pod: which cards a job may use, which nodes have them, how a container gets one.

What depends on the vendor or on a product name belongs here; other modules pass it on. Which of a
job's pods holds the GPU is a decision of ``reconcile.serving`` (``gpu_handover``), and whether a
model fits a card one of the trainer.
"""
