"""The artifacts of a release, in ``dist/VERSION`` and in a registry."""
