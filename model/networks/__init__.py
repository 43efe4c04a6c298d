"""From images to features: which networks there are (`entries.py`), and their layers, in plain Keras."""
