"""NF4 quantization, and the record that reproduces the 4-bit weights bit for bit."""
