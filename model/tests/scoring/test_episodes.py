"""Episodes: what is drawn, and accuracies against a loop over exact fractions."""

import collections
import statistics
from fractions import Fraction

import numpy as np
import pytest

from model.common.errors import UserError
from model.scoring import episodes
from model.scoring.episodes import Shots, draw_from


@pytest.mark.parametrize(
    "text", ["", "20", "x1", "20x", "20x1x1", "20X1", " 20x1", "-5x1", "5x-1", "5.0x1", "٥x1", "5x1\n"]
)
def test_what_is_no_n_x_k(text):
    with pytest.raises(UserError, match=r"--episodes: expected NxK, as 20x1") as raised:
        Shots.parse(text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["1x1", "0x5", "5x0"])
def test_one_class_or_no_image_is_no_episode(text):
    with pytest.raises(UserError, match="N at least 2 and K at least 1"):
        Shots.parse(text)


def test_n_x_k():
    assert Shots.parse("20x1") == Shots(20, 1) and str(Shots(5, 15)) == "5x15"


LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(12), [3, 20, 4, 20, 9, 20, 20, 2, 20, 20, 0, 20]))


@pytest.mark.parametrize("shots", [Shots(2, 1), Shots(5, 3), Shots(7, 15)])
def test_what_an_episode_holds(shots):
    episode = draw_from(LABELS, shots, num_queries=4, seed=7)
    for number in range(50):
        drawn = episode(number)
        assert drawn.support.shape == (shots.num_classes, shots.num_images)
        classes = LABELS[drawn.support]
        assert (classes == classes[:, :1]).all() and len(set(classes[:, 0])) == shots.num_classes
        np.testing.assert_array_equal(LABELS[drawn.queries], classes[drawn.query_classes, 0])
        taken = [*drawn.support.ravel().tolist(), *drawn.queries.tolist()]
        assert len(set(taken)) == len(taken)
        for place, class_ in enumerate(classes[:, 0]):
            left = np.bincount(LABELS)[class_] - shots.num_images
            assert np.count_nonzero(drawn.query_classes == place) == min(4, left) >= 1


def test_an_episode_is_a_function_of_seed_and_number():
    def contents(seed, number):
        drawn = draw_from(LABELS, Shots(5, 1), 4, seed)(number)
        return drawn.support.tobytes() + drawn.queries.tobytes()

    assert contents(1, 3) == contents(1, 3)
    assert len({contents(seed, number) for seed in (0, 2**64 - 1) for number in range(20)}) == 40


def test_several_k_have_the_same_classes_and_queries():
    labels = np.repeat(np.arange(30), 20)
    one, five = draw_from(labels, Shots(5, 1), 15, 0)(9), draw_from(labels, Shots(5, 5), 15, 0)(9)
    np.testing.assert_array_equal(one.queries, five.queries)
    np.testing.assert_array_equal(one.support, five.support[:, :1])


@pytest.mark.slow
def test_all_classes_and_images_have_the_same_chance():
    labels = np.repeat(np.arange(10), 6)
    episode = draw_from(labels, Shots(3, 2), 2, 5)
    drawn = [episode(number) for number in range(2000)]
    shown = collections.Counter(np.concatenate([d.support.ravel() for d in drawn]).tolist())
    asked = collections.Counter(np.concatenate([d.queries for d in drawn]).tolist())
    # 2,000 episodes, 3 of 10 classes, 2 of 6 images: 200 expected of each, standard deviation under 14.
    for counts in (shown, asked):
        assert set(counts) == set(range(60)) and all(130 < count < 270 for count in counts.values())


def test_within_parents_all_classes_have_one_parent_and_all_parents_have_the_same_chance():
    parents = np.array([4, 4, 4, 7, 7, 7, 7, 7, 1, 1])  # of these, 1 has too few classes
    labels = np.repeat(np.arange(10), 5)
    episode = draw_from(labels, Shots(3, 1), 4, 2, parents)
    counts = collections.Counter()
    for number in range(600):
        (parent,) = set(parents[labels[episode(number).support[:, 0]]])
        counts[int(parent)] += 1
    assert set(counts) == {4, 7} and 240 < counts[4] < 360


@pytest.mark.parametrize(
    ("shots", "parents", "expected"),
    [
        (Shots(12, 1), None, "--episodes 12x1: expected 12 classes of 2 images at least, .*; there are 11"),
        (Shots(8, 15), None, "--episodes 8x15: expected 8 classes of 16 images at least, .*; there are 7"),
        (Shots(2, 20), None, "there are 0"),
        (Shots(5, 1), np.arange(12) % 3, "all below one parent; there are 4"),
    ],
)
def test_too_few_classes_or_images(shots, parents, expected):
    with pytest.raises(UserError, match=expected) as raised:
        draw_from(LABELS, shots, 1, 0, parents)
    assert "\n" not in str(raised.value)


def accuracies_by_loop(points, drawn):
    """Exact fractions, one query at a time: a wrong answer that is as near as the best right one is an error."""

    def distance(a, b):
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))

    shown = [[[Fraction(int(x)) for x in points[i]] for i in row] for row in drawn.support]
    means = [[[sum(axis) / len(row) for axis in zip(*row, strict=True)]] for row in shown]
    found = []
    for answers in (shown, means):
        right = 0
        for query, class_ in zip(drawn.queries, drawn.query_classes, strict=True):
            nearest = [min(distance(points[query].tolist(), p) for p in row) for row in answers]
            right += all(nearest[class_] < other for place, other in enumerate(nearest) if place != class_)
        found.append(right / len(drawn.queries))
    return found


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shots", [Shots(3, 1), Shots(4, 3)])
def test_accuracies_against_a_loop_with_ties_and_duplicates(shots, dtype):
    random = np.random.default_rng(3)
    labels = np.repeat(np.arange(6), 7)
    points = random.integers(-2, 3, (42, 2)) + 2 * labels[:, np.newaxis] // 3
    episode = draw_from(labels, shots, 4, 1)
    expected = np.array([accuracies_by_loop(points, episode(number)) for number in range(25)])
    scores = episodes.measure(points.astype(dtype), episode, 25)
    for name, values in zip(("nearest_image", "class_mean"), expected.T.tolist(), strict=True):
        half = 1.96 * statistics.stdev(values) / 5
        assert scores[name] == pytest.approx(statistics.mean(values)) and 0.2 < scores[name] < 0.95
        assert scores[f"{name}_low95"] == pytest.approx(scores[name] - half)
        assert scores[f"{name}_high95"] == pytest.approx(scores[name] + half)
    assert (scores["nearest_image"] == scores["class_mean"]) == (shots.num_images == 1)


def test_a_collapsed_network_is_never_lucky():
    episode = draw_from(LABELS, Shots(5, 3), 4, 0)
    scores = episodes.measure(np.full((len(LABELS), 8), 0.1, np.float32), episode, 3)
    assert scores["nearest_image"] == scores["class_mean"] == 0


def test_one_episode_has_no_interval():
    scores = episodes.measure(np.eye(len(LABELS)), draw_from(LABELS, Shots(5, 3), 4, 0), 1)
    assert np.isnan(scores["nearest_image_low95"]) and np.isnan(scores["class_mean_high95"])
