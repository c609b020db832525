"""Kernels of a GPU on a machine without one: Triton's interpreter in a process of its own, every access watched."""
