"""From the files of a dataset to token ids and labels."""
