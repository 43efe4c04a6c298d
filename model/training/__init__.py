"""From batches to checkpoints: the network, its steps, the loop around them, and what watches over it."""
