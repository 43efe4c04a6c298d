"""Scores of embeddings, computed from NumPy arrays without TensorFlow, and the file that keeps them."""
