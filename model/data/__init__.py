"""From the name of a data set to images, who sees which of them, and which make up a batch."""
