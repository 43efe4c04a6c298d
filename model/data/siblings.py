"""P x K batches of classes that are hard to tell apart: those with one parent in a tree of class names.

A class such as `Fruit/Apple/Golden-Delicious` has the parent `Fruit/Apple`, and its siblings are the other classes
there. A class that has classes below it, such as `dog` beside `dog/spaniel`, counts among these.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.common.draws import Stream, permutation
from model.data import sampling
from model.data.sampling import BatchPolicy

# Parts of the draws of the stream TRAINING_ORDER, of which those of one round are told apart.
_CLASSES, _NODES, _BATCHES, _CIRCLE = range(4)


@dataclass(frozen=True)
class Tree:
    """The folders that the names of classes speak of.

    Attributes:
        parent: (M,) int64, the parent of each node; node 0 is the root, and its own parent. Parents come
            before children.
        depth: (M,) int64, 0 for the root.
        node_of: (C,) int64, the node of each class: its parent, or itself if it has classes below it.

    Example:
        >>> tree = Tree.of(["Fruit/Apple", "Fruit/Pear", "Milk"])
        >>> tree.node_of.tolist(), tree.depth.tolist()  # Fruit is node 1
        ([1, 1, 0], [0, 1])
    """

    parent: np.ndarray
    depth: np.ndarray
    node_of: np.ndarray

    @classmethod
    def of(cls, names: Sequence[str]) -> "Tree":
        """Returns the tree of C class names, whose parts are separated by `/`."""
        parents = {name.rpartition("/")[0] for name in names}
        nodes, parent, depth = {"": 0}, [0], [0]

        def node(path: str) -> int:
            missing = []
            while path not in nodes:
                missing.append(path)
                path = path.rpartition("/")[0]
            for below in reversed(missing):
                parent.append(nodes[path])
                depth.append(depth[nodes[path]] + 1)
                nodes[below], path = len(nodes), below
            return nodes[path]

        for path in sorted(parents):
            node(path)
        node_of = [nodes[name] if name in nodes else nodes[name.rpartition("/")[0]] for name in names]
        return cls(np.array(parent), np.array(depth), np.array(node_of))

    @property
    def tells_apart(self) -> bool:
        """Whether some classes, two at least and not all, lie below a node: else all are equally near to each other."""
        below = np.bincount(self.node_of, minlength=len(self.parent))
        for node in np.argsort(-self.depth, kind="stable")[:-1]:  # the root is the last
            below[self.parent[node]] += below[node]
        return bool(np.any((below >= 2) & (below < len(self.node_of))))


def sibling_batches(
    labels: np.ndarray, class_names: Sequence[str], seed: int, num_classes_per_batch: int, num_images_per_class: int
) -> BatchPolicy:
    """Returns P x K batches: P different classes, siblings as far as there are so many, K different images of each.

    The classes are dealt in rounds. In a round each parent shuffles its classes and cuts them into batches of P. What
    is left over, fewer than P classes of each parent, goes to the parent's parent, is joined there to what is left over
    of the others, family by family, and cut again, and so on up to the root. So a batch is filled from the smallest
    part of the tree that has the classes for it: of the n classes of a round that lie below any one folder, at whatever
    depth, n // P batches are filled with nothing else.

    Every class has its turn equally often: the C mod P classes for which a round has no place are the next ones on a
    circle of all classes, before anything is dealt. So after any whole number of rounds no class is more than one turn
    ahead of another, whatever the tree. The batches of a round come in random order, and so do the images of a class,
    K at a time, as in `sampling.class_balanced_batches`.

    Args:
        labels: Integer array of shape (N,), from 0 to the number of names - 1.
        class_names: Of the labels 0, 1, ...
        seed: From 0 to 2^64 - 1.
        num_classes_per_batch: P, from 1 to the number of classes.
        num_images_per_class: K, at least 1. A class with fewer images repeats them within the batch.

    Returns:
        A function from the step to int32 indices of shape (P * K,), class by class.

    Example:
        >>> names = ["Apple/Pink", "Apple/Royal", "Milk/Oat", "Milk/Soy"]
        >>> batch = sibling_batches(np.array([0, 1, 2, 3]), names, 230, num_classes_per_batch=2, num_images_per_class=1)
        >>> [sorted(batch(step).tolist()) for step in range(4)]
        [[2, 3], [0, 1], [2, 3], [0, 1]]
    """
    present = np.unique(labels)
    tree = Tree.of([class_names[label] for label in present.tolist()])
    num_classes, size = len(present), num_classes_per_batch
    batches_per_round, num_waiting = divmod(num_classes, size)
    circle = permutation(seed, Stream.TRAINING_ORDER, part=_CIRCLE, size=num_classes)
    place = np.argsort(circle)  # of each class on the circle
    images = sampling.images_of_classes(labels, seed, num_images_per_class)

    @functools.lru_cache(maxsize=2)
    def deal(round_: int) -> list[list[int]]:
        waiting = circle[(round_ * num_waiting + np.arange(num_waiting)) % num_classes]
        is_dealt = np.ones(num_classes, bool)
        is_dealt[waiting] = False
        rows: list[list[int]] = [[] for _ in tree.parent]
        for class_ in permutation(seed, Stream.TRAINING_ORDER, round_, _CLASSES, size=num_classes).tolist():
            if is_dealt[class_]:
                rows[tree.node_of[class_]].append(class_)
        batches = []
        shuffled = permutation(seed, Stream.TRAINING_ORDER, round_, _NODES, size=len(rows))
        for node in shuffled[np.argsort(-tree.depth[shuffled], kind="stable")].tolist():  # the deepest first
            row, left_over = rows[node], len(rows[node]) % size
            batches += [row[start : start + size] for start in range(0, len(row) - left_over, size)]
            rows[tree.parent[node]] += row[len(row) - left_over :]  # none is left over at the root
        order = permutation(seed, Stream.TRAINING_ORDER, round_, _BATCHES, size=len(batches))
        return [batches[index] for index in order]

    def batch(step: int) -> np.ndarray:
        round_, position = divmod(step, batches_per_round)
        classes = deal(round_)[position]
        # How often each of them was dealt before: in all rounds but those in which the circle came to its place.
        turns = round_ - (round_ * num_waiting + num_classes - 1 - place[classes]) // num_classes
        return np.concatenate([images(class_, turn) for class_, turn in zip(classes, turns.tolist(), strict=True)])

    return batch
