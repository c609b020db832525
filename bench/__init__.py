"""Comparisons with other engines and the models they run on. Not part of the installed package."""
