"""Offline mining: the negatives against plain loops, the rounds, and what a resume sees of them."""

import collections
import dataclasses

import numpy as np
import pytest

from model import mining
from model.input_fn import train_input_fn
from model.learner import Learner, MinedRound
from model.mining import Miner, choose_negatives
from model.model_fn import model_fn
from model.network import build_network
from model.params import Params
from model.tests import oracles
from model.tests.experiments import SMALL, digits
from model.triplet_loss import DISTANCES


def chosen_by_hand(points, labels, anchor, positive, distance, semi_hard):
    """Visits every negative."""
    to = {n: oracles.distance(points[anchor], points[n], distance) for n in range(len(points))}
    negatives = [n for n in to if labels[n] != labels[anchor]]
    farther = [n for n in negatives if to[n] > to[positive]] if semi_hard else negatives
    return min(farther, key=to.get) if farther else max(negatives, key=to.get)


@pytest.mark.parametrize("semi_hard", [False, True])
@pytest.mark.parametrize("distance", DISTANCES)
def test_negatives(distance, semi_hard, monkeypatch):
    monkeypatch.setattr(mining, "_PAIRS_AT_A_TIME", 7 * 40)  # 7 anchors at a time
    rng = np.random.default_rng(0)
    labels, points = rng.integers(0, 4, 40).astype(np.int32), rng.normal(size=(40, 3)).astype(np.float32) + 5
    labels[:2], points[:2] = 0, [[100, 100, -300], [-300, 100, 100]]  # apart: no negative is farther than the positive
    pairs = [(a, p) for a in range(40) for p in range(40) if a != p and labels[a] == labels[p]]
    anchors, positives = np.array(pairs).T
    chosen = choose_negatives(points, labels, anchors, positives, distance, semi_hard=semi_hard)
    expected = [chosen_by_hand(points, labels, a, p, distance, semi_hard) for a, p in pairs]
    np.testing.assert_array_equal(chosen, expected)


def miner(**changes):
    params = Params(
        **{**SMALL, "triplet_strategy": "offline_semi_hard", "mining_size": 100, "batch_size": 20, **changes}
    )
    data = train_input_fn(digits(), params)
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


def test_rounds_of_another_size_are_not_taken_over():
    first, learner, _ = miner()
    first.batch(0)
    other, other_learner, _ = miner(mining_size=200)
    other_learner.mined = learner.mined
    assert other.batch(0).shape == (60,)
    assert other_learner.mined.batches.shape == (10, 60)


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


def test_pairs_are_needed():
    _, learner, data = miner()
    with pytest.raises(ValueError, match="Expected a training input of pairs"):
        Miner(model_fn, learner, dataclasses.replace(data, steps_per_mining=None))
