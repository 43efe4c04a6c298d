"""Image embeddings trained with triplet loss and online triplet mining."""
