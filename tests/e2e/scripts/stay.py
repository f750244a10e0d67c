"""Run in a pod until it is deleted, so that other scripts can run inside the pod."""

import signal

signal.pause()
