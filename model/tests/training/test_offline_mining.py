"""Offline mining: the negatives against plain loops, the rounds, and what a resume sees of them."""

import collections
import dataclasses

import numpy as np
import pytest

from model.data.input_fn import train_input_fn
from model.data.partition import divide
from model.params import Params
from model.tests import oracles
from model.tests.experiments import SMALL, digits
from model.training import offline_mining
from model.training.augmentation import prepare_images
from model.training.learner import Learner, MinedRound
from model.training.model_fn import model_fn
from model.training.network import build_network
from model.training.offline_mining import Miner, choose_negatives
from model.triplet_loss import DISTANCES

pytestmark = pytest.mark.slow


def chosen_by_hand(to, labels, anchor, positive, semi_hard):
    """Visits every negative; `to` are the distances from the anchor."""
    negatives = [n for n in range(len(to)) if labels[n] != labels[anchor]]
    farther = [n for n in negatives if to[n] > to[positive]] if semi_hard else negatives
    return min(farther, key=lambda n: to[n]) if farther else max(negatives, key=lambda n: to[n])


@pytest.mark.parametrize("offset", [0, 300])
@pytest.mark.parametrize("semi_hard", [False, True])
@pytest.mark.parametrize("distance", DISTANCES)
def test_negatives(distance, semi_hard, offset, monkeypatch):
    monkeypatch.setattr(offline_mining, "_PAIRS_AT_A_TIME", 7 * 40)  # 7 anchors at a time
    rng = np.random.default_rng(0)
    labels, points = rng.integers(0, 4, 40).astype(np.int32), rng.normal(size=(40, 3)).astype(np.float32)
    labels[:2], points[:2] = 0, [[100, 100, -300], [-300, 100, 100]]  # apart: no negative is farther than the positive
    points = (points + np.float32(0 if distance == "cosine" else offset)).astype(np.float32)
    points[5] = 0  # a vector without a direction
    pairs = [(a, p) for a in range(40) for p in range(40) if a != p and labels[a] == labels[p]]
    anchors, positives = np.array(pairs, np.int32).T
    chosen = choose_negatives(points, labels, anchors, positives, distance, semi_hard=semi_hard)
    distances = oracles.pairwise_distances(points, distance)
    expected = [chosen_by_hand(distances[a], labels, a, p, semi_hard) for a, p in pairs]
    # Where two negatives are as far as each other, either is right: a zero vector is as far from all.
    for (a, _), seen, wanted in zip(pairs, chosen, expected, strict=True):
        assert seen == wanted or distances[a, seen] == pytest.approx(distances[a, wanted], rel=1e-5)
        assert labels[seen] != labels[a]


def test_a_negative_as_far_as_the_positive_is_not_farther():
    """Every image is there twice, under two labels."""
    rng = np.random.default_rng(0)
    points = np.tile(rng.normal(size=(30, 5)).astype(np.float32), (2, 1))
    labels = np.concatenate([np.arange(30) % 3, 10 + np.arange(30) % 3]).astype(np.int32)
    pairs = [(a, p) for a in range(60) for p in range(60) if a != p and labels[a] == labels[p]]
    anchors, positives = np.array(pairs, np.int32).T
    chosen = choose_negatives(points, labels, anchors, positives, "euclidean", semi_hard=True)
    distances = oracles.pairwise_distances(points)
    for (a, p), n in zip(pairs, chosen, strict=True):
        wanted = chosen_by_hand(distances[a], labels, a, p, True)
        assert distances[a, n] == pytest.approx(distances[a, wanted], rel=1e-5)


def miner(**changes):
    params = Params(
        **{**SMALL, "triplet_strategy": "offline_semi_hard", "mining_size": 100, "batch_size": 20, **changes}
    )
    data = train_input_fn(divide(digits(), params), params)
    learner = Learner(params, build_network(params, data.images.shape[1:], "float32"))
    return Miner(model_fn, learner, data), learner, data


def test_a_round_is_mined_at_its_first_step_and_kept(monkeypatch):
    seen = miner()
    of_steps = [seen[0].batch(step) for step in range(12)]  # rounds of 5 steps: 0, 5 and 10 mine
    labels = seen[2].labels
    for step, batch in enumerate(of_steps):
        anchors, positives, negatives = batch.reshape(20, 3).T
        np.testing.assert_array_equal(np.column_stack([anchors, positives]), seen[2].batches(step))
        assert (labels[anchors] == labels[positives]).all() and (anchors != positives).all()
        assert (labels[anchors] != labels[negatives]).all()
    assert seen[1].mined.number == 2
    assert collections.Counter(np.concatenate(of_steps).tolist()).most_common(1)[0][1] < 40  # not one and the same

    resumed, learner, _ = miner()
    learner.mined = MinedRound(1, np.stack(of_steps[5:10]))
    monkeypatch.setattr(resumed, "_mine", None)  # nothing is mined in the middle of a round
    np.testing.assert_array_equal(resumed.batch(7), of_steps[7])


@pytest.mark.parametrize(("strategy", "distance"), [("offline_semi_hard", "cosine"), ("offline_hard", "euclidean")])
def test_a_round_has_the_negatives_of_its_strategy_among_its_own_images(strategy, distance):
    seen, learner, data = miner(triplet_strategy=strategy, distance=distance)
    triplets = np.concatenate([seen.batch(step).reshape(20, 3) for step in range(5)])
    pool = np.unique(triplets[:, :2])
    assert set(triplets[:, 2]) <= set(pool)
    points = learner.network(prepare_images(data.images[pool])).numpy()
    for a, p, n in np.searchsorted(pool, triplets[::7]):
        to = [oracles.distance(points[a], point, distance) for point in points]
        wanted = chosen_by_hand(to, data.labels[pool], a, p, strategy == "offline_semi_hard")
        assert to[n] == pytest.approx(to[wanted], rel=1e-3)


def test_a_round_of_one_class_looks_for_negatives_everywhere():
    _, learner, data = miner(mining_size=20)
    of_zeros = data.labels.copy()
    of_zeros[:] = 0
    of_zeros[17] = 1  # the only image of another class
    alone = Miner(
        model_fn, learner, dataclasses.replace(data, labels=of_zeros, batches=lambda _: np.tile([3, 4], (20, 1)))
    )
    assert set(alone.batch(0).reshape(20, 3)[:, 2]) == {17}


def test_without_a_size_a_round_is_an_epoch():
    _, _, data = miner(mining_size=None, batch_size=100)
    assert data.steps_per_mining == 15  # 1438 images
    assert data.images_per_step == 300


def test_more_than_there_are_is_an_epoch():
    assert miner(mining_size=2**31 - 1, batch_size=100)[2].steps_per_mining == 14


def test_pairs_are_needed():
    _, learner, data = miner()
    with pytest.raises(ValueError, match="Expected a training input of pairs"):
        Miner(model_fn, learner, dataclasses.replace(data, steps_per_mining=None))
