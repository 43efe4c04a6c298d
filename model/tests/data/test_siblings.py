"""Batches of siblings: always P x K, as many of one parent as there can be, and every class equally often."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.common.errors import UserError
from model.data import sampling, siblings
from model.data.dataset import Dataset, Split
from model.data.input_fn import train_input_fn
from model.data.partition import divide
from model.params import Params

paths = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join)


@st.composite
def trees(draw):
    """Names of classes, with one to five images each, and P, K and a seed."""
    names = sorted(draw(st.lists(paths, min_size=2, max_size=14, unique=True)))
    sizes = draw(st.lists(st.integers(1, 5), min_size=len(names), max_size=len(names)))
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(names)), sizes))
    return names, labels, draw(st.integers(1, len(names))), draw(st.integers(1, 4)), draw(st.integers(0, 2**64 - 1))


def family(name, names):
    """The folder that a class counts to: the one it lies in, or itself where others lie below it."""
    has_classes_below = any(other.startswith(f"{name}/") for other in names)
    return name if has_classes_below else name[: max(name.rfind("/"), 0)]


def rounds(tree, count):
    """The classes of each batch of some rounds, round by round."""
    names, labels, size, images, seed = tree
    batch = siblings.sibling_batches(labels, names, seed, size, images)
    per_round = len(names) // size
    return [[labels[batch(r * per_round + i)][::images].tolist() for i in range(per_round)] for r in range(count)]


@settings(deadline=None, max_examples=40)
@given(trees())
def test_every_batch_has_p_classes_of_k_images(tree):
    names, labels, size, images, seed = tree
    batch = siblings.sibling_batches(labels, names, seed, size, images)
    for step in range(12):
        indices = batch(step)
        assert indices.dtype == np.int32 and indices.shape == (size * images,)
        for of_class in indices.reshape(size, images):
            (label,) = set(labels[of_class].tolist())
            assert len(set(of_class.tolist())) == min(images, np.count_nonzero(labels == label))
        assert len(set(labels[indices].tolist())) == size


@settings(deadline=None, max_examples=40)
@given(trees(), st.integers(1, 30))
def test_no_class_is_more_than_one_turn_ahead(tree, count):
    """After whole rounds; of the images of a class none is more than one use ahead where its turns have no gaps."""
    turns = collections.Counter(label for batches in rounds(tree, count) for batch in batches for label in batch)
    counts = [turns[label] for label in range(len(tree[0]))]
    assert max(counts) - min(counts) <= 1
    assert sum(counts) == count * (len(tree[0]) // tree[2]) * tree[2]


@settings(deadline=None, max_examples=40)
@given(trees())
def test_the_images_of_a_class_come_equally_often(tree):
    names, labels, size, images, seed = tree
    batch = siblings.sibling_batches(labels, names, seed, size, images)
    uses = np.zeros(len(labels), int)
    for step in range(10 * (len(names) // size)):
        uses += np.bincount(batch(step), minlength=len(labels))
    for label in range(len(names)):
        of_class = uses[labels == label]
        # Each deal leaves out fewer than K images, and ends with each of the others used once.
        if len(of_class) % images == 0:
            assert of_class.max() - of_class.min() <= 1


@settings(deadline=None, max_examples=40)
@given(trees())
def test_a_family_fills_as_many_batches_as_it_can(tree):
    """Of those classes of a parent that have a turn in a round, n // P batches are filled with nothing else."""
    names, _, size, _, _ = tree
    families = [family(name, names) for name in names]
    for batches in rounds(tree, 5):
        present = collections.Counter(families[label] for batch in batches for label in batch)
        of_one = collections.Counter(
            families[batch[0]] for batch in batches if len({families[label] for label in batch}) == 1
        )
        assert all(of_one[name] == count // size for name, count in present.items())


@settings(deadline=None, max_examples=40)
@given(trees())
def test_a_batch_of_several_families_is_from_the_smallest_part_of_the_tree(tree):
    """At every folder: the classes below it with a turn fill n // P batches, whatever families they are of."""
    names, _, size, _, _ = tree
    families = [family(name, names) for name in names]
    folders = {path[:end] for path in families for end in range(len(path) + 1) if path[end : end + 1] in ("", "/")}

    def is_below(label, folder):
        return folder == "" or f"{families[label]}/".startswith(f"{folder}/")

    for batches in rounds(tree, 3):
        for folder in folders:
            inside = [[is_below(label, folder) for label in batch] for batch in batches]
            assert sum(all(batch) for batch in inside) == sum(map(sum, inside)) // size


def test_it_is_a_pure_function_of_seed_and_step():
    names = [f"{parent}/{child}" for parent in "abcd" for child in range(5)]
    labels = np.arange(60) % 20

    def batches(seed, steps):
        batch = siblings.sibling_batches(labels, names, seed, 3, 2)
        return [batch(step).tolist() for step in steps]

    forward = batches(7, range(40))
    assert forward == batches(7, reversed(range(40)))[::-1]
    assert forward != batches(8, range(40))
    assert len({tuple(b) for b in forward}) == 40  # no two alike: families are mixed anew each round


def test_siblings_are_most_of_a_batch_where_classes_drawn_at_random_are_not():
    names = [f"{parent}/{child}" for parent in range(10) for child in range(9)]
    labels = np.repeat(np.arange(90), 2)

    def share(batch):
        """Of pairs of classes in a batch, those with one parent."""
        found = [np.array([names[label][0] for label in labels[batch(step)][::2]]) for step in range(300)]
        return np.mean([((b[:, None] == b).sum() - len(b)) / (len(b) * (len(b) - 1)) for b in found])

    assert share(siblings.sibling_batches(labels, names, 0, 8, 2)) > 0.7
    assert share(sampling.class_balanced_batches(labels, 0, 8, 2)) == pytest.approx(8 / 89, abs=0.03)


@pytest.mark.parametrize(
    ("names", "is_tree"),
    [
        (["a", "b", "c"], False),
        (["x/a", "x/b", "x/c"], False),
        (["a/1", "b/1", "c/1"], False),
        (["a/1", "a/2", "c/1"], True),
        (["a/p/1", "a/q/1", "c/1"], True),  # no siblings, but cousins
        (["dog", "dog/spaniel", "cat"], True),
        (["/".join("d" * 1500), "/".join("d" * 1499), "e"], True),
    ],
)
def test_what_a_tree_is(names, is_tree):
    assert siblings.Tree.of(names).tells_apart == is_tree


def data_of(names):
    labels = np.repeat(np.arange(len(names), dtype=np.int32), 4)
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return Dataset("food", Split(images, labels), Split(images, labels), tuple(names))


def test_params_ask_for_siblings():
    data = data_of(["Fruit/Apple", "Fruit/Pear", "Milk/Oat", "Milk/Soy", "Juice"])
    params = Params(batch_size=4, num_classes_per_batch=2, num_images_per_class=2, batch_classes="siblings")
    learned = train_input_fn(divide(data, params), params)
    expected = siblings.sibling_batches(data.train.labels, data.class_names, params.seed, 2, 2)
    for step in range(10):
        np.testing.assert_array_equal(learned.batches(step), expected(step))


def test_names_that_form_no_tree_are_refused():
    params = Params(batch_size=4, num_classes_per_batch=2, num_images_per_class=2, batch_classes="siblings")
    data = data_of(["Fruit/Apple", "Fruit/Pear", "Fruit/Kiwi", "Fruit/Plum"])
    with pytest.raises(
        UserError, match=r"'batch_classes'.*form a tree.*Fruit/Apple, .* and 1 more of food; take"
    ) as caught:
        train_input_fn(divide(data, params), params)
    assert "\n" not in str(caught.value)
