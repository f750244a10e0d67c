"""Estimates the resources of a job from config.json of its base and from token counts.

The package needs neither torch nor the network. The same code refuses a job in the prepare stage,
before a GPU is requested, and runs in ``ftj estimate`` on a laptop. It was not calibrated on a GPU
of this project; docs/concepts/estimates.md has the formulas and the published figures that they
were compared with.
"""
