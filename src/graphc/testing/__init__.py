"""Public tools to find out whether a compiled model is right, and how fast it is beside other engines."""
