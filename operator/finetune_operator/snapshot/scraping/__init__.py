"""Scrapes of the metrics of trainer and verify pods."""
