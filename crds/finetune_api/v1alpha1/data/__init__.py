"""Rows and datasets, and what data preparation determines about them."""
