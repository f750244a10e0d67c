"""Importing this module exempts all objects of the process from garbage collection.

A server imports it after the libraries. The collections of a forked command then read the objects
of the command only; otherwise they would read and copy hundreds of megabytes of the server.
"""

import gc

gc.collect()
gc.freeze()
