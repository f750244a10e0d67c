"""In a pod that stays until it is deleted, for scripts that are run inside it."""

import signal

signal.pause()
