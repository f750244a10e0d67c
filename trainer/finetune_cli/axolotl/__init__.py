"""Converts an Axolotl configuration to a FineTuneJob.

Key names and defaults are those of Axolotl 0.19. Every setting is copied, or gets a note with a
severity. A configuration that a job cannot run is rejected.
"""
