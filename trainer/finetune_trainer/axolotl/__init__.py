"""An Axolotl configuration → a FineTuneJob, with a warning for whatever does not carry over.

Key names and defaults are those of Axolotl 0.19.
"""
