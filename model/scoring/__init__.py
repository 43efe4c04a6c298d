"""From embeddings to numbers, and to the file that keeps them: NumPy in, no network."""
