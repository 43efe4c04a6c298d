"""Measurements: each module prints the numbers that the documentation quotes."""
