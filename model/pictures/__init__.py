"""What is drawn of a trained network, for TensorBoard, for a browser, as files."""
