"""NF4 weights, and the record from which they are reproduced bit for bit."""
