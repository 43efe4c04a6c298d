"""Demonstrations that need no experiment."""
