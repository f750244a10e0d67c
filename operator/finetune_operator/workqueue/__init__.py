"""The work queue of an event loop, composed of small parts with one rule each."""
