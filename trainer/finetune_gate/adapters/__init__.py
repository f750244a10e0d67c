"""An adapter arrives: its files are copied, and compared with the base of the endpoint."""
