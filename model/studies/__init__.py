"""Many runs beside each other: searches, comparisons, audits of labels, and TensorBoard's table of them."""
