"""What a job will take, from its base's config.json and its token counts alone.

Free of torch and of the network: the same code refuses a job in its stage pod before a GPU is asked
for, and answers ``python -m finetune_trainer estimate`` on a laptop. Nothing here was measured on a
card of ours; docs/concepts/estimates.md has the formula and what it was compared with.
"""
