"""Texts of Triton functions: Jinja2 templates of kernels, and the helpers that kernels call."""
