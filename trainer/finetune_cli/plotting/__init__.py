"""Draws curves: as text for a terminal, as SVG and as PNG."""
