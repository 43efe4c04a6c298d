"""Answers about images that were not in the data set."""
