"""Attention: the kernels, the families that each computes, and the choice for a job."""
