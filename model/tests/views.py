"""Small views for tests of the pictures."""

import numpy as np

from model.pictures.view import Embedded, View
from model.scoring.neighbors import class_neighbors

# Arguments of `view` for each kind of view.
VIEWS = {
    "ordinary": {},
    "training images in colour": {"channels": 3, "in_gallery": True},
    "one class": {"num_classes": 1},
    "one image": {"num_images": 1, "num_classes": 2},
    "two images": {"num_images": 2, "num_classes": 2},
    "many classes": {"num_classes": 100, "num_images": 110},  # more than colours with marks, and than gallery images
    "no mistakes": {"spread": 1e-3},
    "queries in groups": {"num_groups": 5},
    "all in one group": {"num_groups": 1},  # so that nothing is found
    "all mixed up": {"spread": 100.0},
}

# Names of classes that nobody would choose; `printable` makes them what a view holds.
HOSTILE_NAMES = (
    "tab\tline\nfeed",
    "<script>alert(1)</script>",
    "\u202eright to left\u200f",
    "x" * 10_000,
    r"$\frac{",
    "",
)


def view(num_images=60, num_classes=4, channels=1, size=3, side=6, seed=0, spread=1.0, in_gallery=False, num_groups=0):
    """Random images whose embeddings lie around the middles of their classes, with neighbours among 90 others.

    All classes count as unseen.
    """
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(num_classes, size)) * 4

    def embedded(count):
        labels = np.arange(count, dtype=np.int32) % num_classes
        images = rng.integers(0, 256, (count, side, side + 1, channels), np.uint8)
        embeddings = (middles[labels] + spread * rng.normal(size=(count, size))).astype(np.float32)
        return Embedded(images, labels, embeddings)

    gallery = embedded(90)
    own = np.arange(num_images) if in_gallery else None
    shown = (
        Embedded(gallery.images[own], gallery.labels[own], gallery.embeddings[own])
        if own is not None
        else embedded(num_images)
    )
    groups = (np.arange(num_images) % num_groups, np.arange(90) % num_groups) if num_groups else None
    return View(
        subject="some images",
        step=7,
        class_names=tuple(f"kind {i}" for i in range(num_classes)),
        margin=0.5,
        shown=shown,
        gallery=gallery,
        neighbors=class_neighbors(shown.embeddings, shown.labels, gallery.embeddings, gallery.labels, own, groups),
        points=shown.embeddings[:, :2],
        projection="its first two dimensions",
        indices=np.arange(num_images),
        gallery_indices=np.arange(90),
        in_gallery=own,
        groups=groups,
        unseen=tuple(range(num_classes)),
    )
