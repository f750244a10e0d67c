"""``ftj ui``: pages about the jobs of a cluster, which a browser on this machine can open.

``reading`` reads the cluster, ``pages`` renders what was read and does no I/O, ``access`` decides
who may see it, and ``app`` connects them. The page has no rights of its own.
"""
