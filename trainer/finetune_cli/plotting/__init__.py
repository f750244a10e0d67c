"""Draws curves: as text for a terminal, and as SVG. Pure, without a library for plots."""
