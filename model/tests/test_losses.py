"""The Keras classes: the same numbers as the functions, in `compile` and after saving."""

import math
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from model import losses, metric_losses, triplet_loss

CLASSES = {
    losses.BatchAllTripletLoss: lambda *args, **options: triplet_loss.batch_all_triplet_loss(*args, **options)[0],
    losses.BatchHardTripletLoss: triplet_loss.batch_hard_triplet_loss,
    losses.BatchSemiHardTripletLoss: triplet_loss.batch_semi_hard_triplet_loss,
    losses.ContrastiveLoss: triplet_loss.contrastive_loss,
}
EVERY = [*CLASSES, losses.BatchRandomSemiHardTripletLoss]
# With parameters that are not the defaults.
OF_PAIRS = {
    losses.MultiSimilarityLoss: (
        metric_losses.multi_similarity_loss,
        {"margin": 0.2, "scale_positive": 3.0, "scale_negative": 9.0, "similarity_threshold": 0.5},
    ),
    losses.SupervisedContrastiveLoss: (metric_losses.supervised_contrastive_loss, {"temperature": 0.4}),
    losses.LiftedStructuredLoss: (metric_losses.lifted_structured_loss, {"margin": 0.2, "distance": "cosine"}),
    losses.CircleLoss: (metric_losses.circle_loss, {"margin": 0.25, "scale": 9.0}),
}
LABELS = tf.constant([0, 0, 1, 1, 2, 2, 2])
EMBEDDINGS = tf.constant(np.random.default_rng(0).normal(size=(7, 3)), tf.float32)


@pytest.mark.parametrize("distance", triplet_loss.DISTANCES)
@pytest.mark.parametrize("loss", CLASSES)
def test_a_class_gives_what_its_function_gives(loss, distance):
    expected = CLASSES[loss](LABELS, EMBEDDINGS, 0.7, distance=distance)
    assert float(loss(margin=0.7, distance=distance)(LABELS, EMBEDDINGS)) == float(expected)


@pytest.mark.parametrize("loss", OF_PAIRS)
def test_a_class_of_pairs_gives_what_its_function_gives_and_survives_serialization(loss):
    function, parameters = OF_PAIRS[loss]
    assert float(loss()(LABELS, EMBEDDINGS)) == float(function(LABELS, EMBEDDINGS))
    original = loss(**parameters, name="mine")
    restored = keras.losses.deserialize(keras.losses.serialize(original))
    assert type(restored) is loss
    assert restored.get_config() == original.get_config() and parameters.items() <= restored.get_config().items()
    for each in (original, restored):
        assert float(each(LABELS, EMBEDDINGS)) == float(function(LABELS, EMBEDDINGS, **parameters))
    assert float(loss()(LABELS, EMBEDDINGS)) != float(original(LABELS, EMBEDDINGS))
    assert loss()(LABELS, tf.cast(EMBEDDINGS, tf.bfloat16)).dtype == tf.float32


@pytest.mark.parametrize("loss", CLASSES)
def test_embeddings_of_half_precision_keep_a_loss_in_float32(loss):
    embeddings = tf.cast(EMBEDDINGS, tf.bfloat16)
    seen = loss(margin=0.7, dtype="float32")(LABELS, embeddings)
    assert seen.dtype == tf.float32
    assert float(seen) == float(CLASSES[loss](LABELS, tf.cast(embeddings, tf.float32), 0.7))


def test_the_soft_margin():
    expected = triplet_loss.batch_hard_triplet_loss(LABELS, EMBEDDINGS, "soft")
    assert float(losses.BatchHardTripletLoss("soft")(LABELS, EMBEDDINGS)) == float(expected)


@pytest.mark.parametrize("loss", EVERY)
def test_a_class_survives_serialization(loss):
    original = loss(margin=0.7, distance="cosine")
    restored = keras.losses.deserialize(keras.losses.serialize(original))
    assert type(restored) is loss
    assert restored.get_config() == original.get_config()
    assert float(restored(LABELS, EMBEDDINGS)) == float(original(LABELS, EMBEDDINGS))


def compiled_model(loss, jit_compile):
    """Images in four classes, their labels, and a small model compiled with the loss."""
    labels = np.arange(136) % 4
    images = np.random.default_rng(0).normal(size=(136, 6)).astype(np.float32) + np.eye(4, 6, dtype=np.float32)[labels]
    dense = keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(1))
    model = keras.Sequential([keras.Input((6,)), dense])
    loss = loss() if loss in OF_PAIRS else loss(margin=1.0)
    model.compile(keras.optimizers.Adam(0.02), loss=loss, jit_compile=jit_compile)
    return model, images, labels


def check_learning(loss, model, images, labels):
    """Three batches an epoch, the last one smaller."""
    # Of a loss that draws anew each time, what it lowers: how many triplets break the margin.
    measure = CLASSES.get(loss, lambda *arguments: triplet_loss.batch_all_triplet_loss(*arguments)[1])
    if loss in OF_PAIRS:
        measure = lambda labels, embeddings, _: OF_PAIRS[loss][0](labels, embeddings)  # noqa: E731
    before = float(measure(labels, model(images), 1.0))
    model.fit(images, labels, batch_size=64, epochs=4, shuffle=False, verbose=0)
    assert float(measure(labels, model(images), 1.0)) < before


def check_three_batches(loss, model, images, labels):
    """What Keras says of three batches, the last one smaller, is what the functions say."""
    batches = [slice(start, start + 64) for start in (0, 64, 128)]
    expected = [float(CLASSES[loss](labels[rows], model(images[rows]), 1.0)) for rows in batches]
    seen = model.evaluate(images, labels, batch_size=64, verbose=0)
    assert seen == pytest.approx(np.average(expected, weights=[64, 64, 8]), rel=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize(
    ("loss", "precision"),
    [(losses.BatchAllTripletLoss, "mixed_bfloat16"), (losses.BatchRandomSemiHardTripletLoss, "float32")],
)
def test_a_model_compiled_with_it_learns_and_can_be_saved(loss, precision, tmp_path):
    keras.mixed_precision.set_global_policy(precision)
    try:
        model, images, labels = compiled_model(loss, jit_compile=False)
        check_learning(loss, model, images, labels)
        if loss in CLASSES:
            check_three_batches(loss, model, images, labels)
        model.save(tmp_path / "model.keras")
        restored = keras.models.load_model(tmp_path / "model.keras")
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert type(restored.loss) is loss
    assert restored.loss.get_config() == model.loss.get_config()
    np.testing.assert_array_equal(restored(images), model(images))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize("loss", [losses.BatchSemiHardTripletLoss, losses.ContrastiveLoss, *OF_PAIRS])
def test_a_model_compiled_with_any_of_them_learns(loss):
    check_learning(loss, *compiled_model(loss, jit_compile=False))


@pytest.mark.slow
def test_it_is_compiled_by_xla():
    """The loss that is compiled soonest: all have the same `call`, and each function is compiled elsewhere."""

    @tf.function(jit_compile=True)
    def loss_and_gradient(labels, embeddings):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            loss = losses.BatchHardTripletLoss(0.7)(labels, embeddings)
        return loss, tape.gradient(loss, embeddings)

    for seen, expected in zip(
        loss_and_gradient(LABELS, EMBEDDINGS), loss_and_gradient.python_function(LABELS, EMBEDDINGS), strict=True
    ):
        np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-6)


def learn_compiled_by_xla():
    """In each of these losses, with batches of two sizes, by the methods of Keras."""
    for loss in OF_PAIRS:
        check_learning(loss, *compiled_model(loss, jit_compile=True))
    for loss in CLASSES:
        compiled = compiled_model(loss, jit_compile=True)
        check_three_batches(loss, *compiled)
        check_learning(loss, *compiled)


@pytest.mark.proof
def test_it_learns_compiled_by_xla_with_a_last_batch_that_is_smaller():
    """In a process of its own: Keras does not compile where operations have been made deterministic."""
    code = "from model.tests import test_losses as t; t.learn_compiled_by_xla(); print('learned')"
    command = [sys.executable, "-W", "error:Model doesn't support:UserWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.stdout == "learned\n", done.stderr


# As `keras.losses.serialize` wrote them before the classes had one `call`.
SAVED = [
    {
        "module": "model.losses",
        "class_name": "BatchHardTripletLoss",
        "config": {"name": "hard", "reduction": "sum_over_batch_size", "margin": "soft", "distance": "euclidean"},
        "registered_name": "triplet_loss>BatchHardTripletLoss",
    },
    {
        "module": "model.losses",
        "class_name": "BatchRandomSemiHardTripletLoss",
        "config": {
            "name": "batch_random_semi_hard_triplet_loss",
            "reduction": "sum_over_batch_size",
            "margin": 0.3,
            "distance": "cosine",
            "seed": 7,
        },
        "registered_name": "triplet_loss>BatchRandomSemiHardTripletLoss",
    },
]


@pytest.mark.parametrize("saved", SAVED)
def test_a_loss_that_was_saved_before_loads_and_is_saved_the_same(saved):
    restored = keras.losses.deserialize(saved)
    assert restored.get_config() == saved["config"]
    assert keras.losses.serialize(restored) == saved


def test_random_negatives_differ_from_batch_to_batch_and_repeat_with_the_seed():
    first, second = (losses.BatchRandomSemiHardTripletLoss(margin=3.0, seed=5) for _ in range(2))
    drawn = [float(first(LABELS, EMBEDDINGS)) for _ in range(8)]
    assert len(set(drawn)) > 1
    assert drawn == [float(second(LABELS, EMBEDDINGS)) for _ in range(8)]


def test_labels_stay_what_they_are():
    """2^24 and 2^24 + 1 are two classes, although float32 cannot tell."""
    labels = tf.constant([2**24, 2**24, 2**24 + 1])
    assert float(losses.BatchAllTripletLoss(margin=9.0)(labels, EMBEDDINGS[:3])) > 0


def test_sample_weights_and_columns_of_labels_are_refused():
    with pytest.raises(ValueError, match="Expected no sample weights"):
        losses.BatchAllTripletLoss()(LABELS, EMBEDDINGS, sample_weight=tf.ones(7))
    with pytest.raises(ValueError, match="Expected no sample weights"):
        losses.CircleLoss()(LABELS, EMBEDDINGS, sample_weight=tf.ones(7))
    with pytest.raises(ValueError, match=r"Expected labels of shape \(B,\)"):
        losses.BatchAllTripletLoss()(LABELS[:, tf.newaxis], EMBEDDINGS)


WITH_VECTORS = {
    losses.ProxyAnchorLoss: (metric_losses.proxy_anchor_loss, {"margin": 0.2, "scale": 3.0}),
    losses.ArcFaceLoss: (metric_losses.arcface_loss, {"margin": 0.3, "scale": 5.0}),
}


@pytest.mark.parametrize("loss", WITH_VECTORS)
def test_a_class_of_similarities_gives_what_its_function_gives_and_survives_serialization(loss):
    function, parameters = WITH_VECTORS[loss]
    layer = losses.ClassSimilarities(4)
    similarities = layer(EMBEDDINGS)
    vectors = layer.class_vectors.value
    assert vectors.shape == (4, 3) and similarities.shape == (7, 4)
    assert float(loss()(LABELS, similarities)) == float(function(LABELS, EMBEDDINGS, vectors))
    original = loss(**parameters, name="mine")
    restored = keras.losses.deserialize(keras.losses.serialize(original))
    assert type(restored) is loss and restored.get_config() == original.get_config()
    for each in (original, restored):
        assert float(each(LABELS, similarities)) == float(function(LABELS, EMBEDDINGS, vectors, **parameters))
    assert layer(tf.cast(EMBEDDINGS, tf.bfloat16)).dtype == tf.float32
    assert math.isnan(loss()(LABELS + 2, similarities))  # 4 is no row


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("loss", WITH_VECTORS)
def test_a_model_that_ends_in_class_vectors_learns_them_and_can_be_saved(loss, precision, tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    images = (np.eye(3)[labels] + 0.1 * rng.normal(size=(60, 3))).astype(np.float32)
    network = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(5, dtype=precision, kernel_initializer=keras.initializers.GlorotUniform(0)),
        ]
    )
    model = keras.Sequential([keras.Input((3,)), network, losses.ClassSimilarities(3, seed=1, dtype=precision)])
    model.compile(keras.optimizers.Adam(0.03), loss())
    before = model.layers[-1].class_vectors.numpy()
    history = model.fit(images, labels, batch_size=20, epochs=30, shuffle=False, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0] and (model.layers[-1].class_vectors.numpy() != before).all()
    similarities = model.predict(images, verbose=0)
    assert (similarities.argmax(axis=1) == labels).all()
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(restored.predict(images, verbose=0), similarities)
    assert type(restored.loss) is loss
    restored.fit(images, labels, batch_size=20, epochs=1, shuffle=False, verbose=0)


def test_vectors_to_begin_with_depend_on_the_seed_alone():
    first, again, other = (losses.ClassSimilarities(4, seed=seed) for seed in (1, 1, 2))
    similarities = [layer(EMBEDDINGS).numpy() for layer in (first, again, other)]
    np.testing.assert_array_equal(similarities[0], similarities[1])
    assert not np.array_equal(similarities[0], similarities[2])
