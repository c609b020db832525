"""The CUDA backend: regions become Triton functions, compiled ahead of time with no GPU at hand."""
