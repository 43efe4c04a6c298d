"""Many runs beside each other: searches, comparisons, and TensorBoard's table of them."""
