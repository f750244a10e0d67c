"""Converts an Axolotl configuration to a FineTuneJob, with a warning for each lost setting.

Key names and defaults are those of Axolotl 0.19.
"""
