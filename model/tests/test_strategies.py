"""A strategy is one entry: everything that asks about strategies asks the entry."""

import json

import pytest
import tensorflow as tf

from model.params import Params, json_schema
from model.strategies import STRATEGIES, Strategy, strategies_with
from model.tests.experiments import SMALL, digits, estimator, write_params
from model.training import preflight
from model.training.estimator import EvalSpec, TrainSpec, train_and_evaluate


def magnet_sums(labels, embeddings, margin, distance, seed):
    """Pulls every embedding towards the mean of its class; the margin is how near is near enough."""
    same_class = tf.cast(labels[:, tf.newaxis] == labels, tf.float32)  # (B, B)
    means = same_class @ embeddings / tf.reduce_sum(same_class, axis=1, keepdims=True)  # (B, D)
    losses = tf.maximum(tf.reduce_sum((embeddings - means) ** 2, axis=1) - margin, 0.0)  # (B,)
    return {"loss": (tf.reduce_sum(losses), tf.cast(tf.size(losses), tf.float32))}


@pytest.fixture
def magnet(monkeypatch):
    """The whole of what it takes to add a loss: a function and an entry."""
    entry = Strategy(lambda: magnet_sums, bytes_per_pair=8, teaches="pairs", parameters=frozenset({"mining_size"}))
    monkeypatch.setitem(STRATEGIES, "magnet", entry)
    return entry


@pytest.mark.slow
def test_a_strategy_that_was_added_trains_and_validates(magnet, tmp_path):
    from model.data.input_fn import train_input_fn, validation_input_fn
    from model.data.partition import divide

    changes = {"triplet_strategy": "magnet", "margin": 0.01, "validation_size": 0.2, "normalize_embeddings": True}
    run = estimator(tmp_path, **changes)
    data = digits()
    scores = train_and_evaluate(
        run,
        TrainSpec(lambda: train_input_fn(divide(data, run.params), run.params), 60),
        EvalSpec(lambda: validation_input_fn(divide(data, run.params), run.params), 30),
    )
    assert scores["loss"] < 0.05  # all points on a sphere, drawn to the means of their classes
    resumed = estimator(tmp_path, **changes)
    resumed.train(lambda: train_input_fn(divide(data, resumed.params), resumed.params), 70)


def test_params_the_schema_and_the_check_know_it(magnet, tmp_path):
    model_dir = write_params(tmp_path, triplet_strategy="magnet", mining_size=64)
    params = Params.from_json(model_dir / "params.json")
    assert params.strategy is magnet
    assert "magnet" in json.loads(json_schema())["properties"]["triplet_strategy"]["enum"]
    with pytest.raises(ValueError, match='needs triplet_strategy "offline_semi_hard" or "offline_hard" or "magnet"'):
        Params(triplet_strategy="batch_all", mining_size=64)
    with pytest.raises(ValueError, match="'magnet'"):
        Params(triplet_strategy="magnets")
    assert preflight.bytes_of_the_loss(Params(**{**SMALL, "triplet_strategy": "magnet"}), 10) == 8 * 64**2


def test_every_entry_is_whole():
    for name, strategy in STRATEGIES.items():
        assert callable(strategy.load()), name
        assert strategy.bytes_per_pair >= 0, name
        scored_as = STRATEGIES[strategy.scored_as or name]
        assert strategy.scored_as is None or scored_as.scored_as is None, name
        assert scored_as.loss_parameters == strategy.loss_parameters or strategy.learns_class_vectors, name
        assert scored_as.distance == strategy.distance, name
        assert strategy.parameters | strategy.defaults.keys() <= set(Params.model_fields), name
        assert not strategy.parameters & strategy.loss_parameters.keys(), name
        assert not strategy.of_similarities or strategy.distance == "cosine", name
        assert not strategy.takes_soft_margin or strategy.margin is not None, name
        own = strategy.defaults.keys() - {"margin", "distance"}
        assert all(Params.model_fields[key].default is None for key in own), name
    assert strategies_with("mining_size") == ["offline_semi_hard", "offline_hard"]
    assert strategies_with("temperature") == ["supervised_contrastive"]
    assert strategies_with("margin") == []
    assert strategies_with("class_vector_learning_rate_factor") == ["proxy_anchor", "arcface"]


def test_triplets_that_are_mined_and_class_vectors_need_a_strategy_that_scores():
    with pytest.raises(ValueError, match="Expected scored_as with mines or class vectors"):
        Strategy(lambda: magnet_sums, bytes_per_pair=0, mines="hard")
    with pytest.raises(ValueError, match="Expected scored_as with mines or class vectors"):
        Strategy(lambda: magnet_sums, bytes_per_pair=0, class_vector_learning_rate_factor=2.0)
    with pytest.raises(ValueError, match="Expected scored_as with mines or class vectors"):
        Strategy(lambda: magnet_sums, bytes_per_pair=0, scored_as="batch_all")
