"""Publishing a tuned model outside the cluster: to a registry, a bucket or a hub.

Nothing is written to the volume, so the stage runs next to the pods that serve the model, and a
killed process leaves nothing behind. What a target already holds is found at the target.
"""
