"""Selects the files of one configuration and one split of a dataset, before they are downloaded.

The rules are those of the ``datasets`` library. Where that library combines the files of several
folders or splits only because of their names, the files are refused, with the choices.
"""
