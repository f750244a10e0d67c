"""Reads dataset files and converts rows to token ids and labels."""
