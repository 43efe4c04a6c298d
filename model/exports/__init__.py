"""What other programs take: the trained network, or its gallery, in files that need nothing of this project."""
