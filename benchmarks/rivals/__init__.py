"""Training on MNIST beside PyTorch with pytorch-metric-learning, on the same batches."""
