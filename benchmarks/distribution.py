"""What sharing a batch among devices costs, and how near its gradient comes to that of one device.

`python -m benchmarks.distribution gradients`: the first gradient, with respect to every weight, and all sums, on 1, 2
and 4 devices (logical CPUs), for every strategy, distance and kind of network. Told is the largest relative difference
from one device: of the gradient as a vector, and of the sums. "local" is what it would be if each of two devices mined
its own part of the batch, as most libraries do. The classes are unequal, and the last device has no positive.

`python -m benchmarks.distribution loss`: seconds of value and gradient of batch all for all anchors of a batch, and for
the half and the quarter of them that a device has of two and of four, with the memory that a new process takes for it.

`python -m benchmarks.distribution parts`: seconds and memory of a step of 4,096 digits of MNIST through the network of
`mnist_best`, without batch normalization, as a whole and in micro-batches, and how far the first gradient is from that
of the whole.

`python -m benchmarks.distribution steps`: milliseconds of a training step on two logical CPUs beside local mining.
"""

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from model.common import devices
from model.data import datasets
from model.params import Params
from model.strategies import STRATEGIES

_BATCH_SIZE = 24
_SIZES = (1024, 2048, 4096, 8192, 16384, 32768)
_KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch norm": {"use_batch_norm": True},
    "augmentation": {"augmentation": "affine_and_flip"},
    "float64": {},
}


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["gradients", "loss", "parts", "steps"])
    parser.add_argument("--sizes", type=int, nargs="+", default=_SIZES)
    parser.add_argument("--child", help=argparse.SUPPRESS)  # what a new process is asked for, as JSON
    options = parser.parse_args()
    if options.child:
        child = {"gradients": _child_gradients, "loss": _child_loss, "parts": _child_parts, "steps": _child_steps}
        child[options.what](json.loads(options.child))
        return
    print(f"$ python -m benchmarks.distribution {options.what}    # {devices.start_tensorflow()}\n", flush=True)
    {"gradients": _gradients, "loss": lambda: _loss(options.sizes), "parts": _parts, "steps": _steps}[options.what]()


def _ask(what: str, question: dict[str, Any]) -> str:
    """Lets a new process answer: one process can have one number of devices, and memory is told of a new one."""
    command = [sys.executable, "-m", "benchmarks.distribution", what, "--child", json.dumps(question)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout


# ------------------------------------------------------------------------------------------- gradients


def _gradients() -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = {}
        for number, local in ((1, False), (2, False), (4, False), (2, True)):
            path = Path(folder, f"{number}{local}.npz")
            _ask("gradients", {"devices": number, "local": local, "path": str(path)})
            results[number, local] = dict(np.load(path))
        print(f"{'':<58}{'gradient':^18}{'sums':^18}{'gradient':>10}")
        print(f"{'':<58}{'R = 2':>9}{'R = 4':>9}{'R = 2':>9}{'R = 4':>9}{'local':>10}")
        worst: dict[str, float] = {}
        for case in _cases():
            name = " / ".join(case)
            one = results[1, False]
            row = []
            for part, far in (("gradient", _far), ("sums", _farthest)):
                row += [far(results[number, False][f"{name}/{part}"], one[f"{name}/{part}"]) for number in (2, 4)]
            row.append(_far(results[2, True][f"{name}/gradient"], one[f"{name}/gradient"]))
            print(f"{name:<58}" + "".join(f"{value:>9.0e}" for value in row[:4]) + f"{row[4]:>10.2f}")
            worst[case[2]] = max([worst.get(case[2], 0.0), *row[:4]])
        for kind, value in worst.items():
            print(f"the largest of {kind}: {value:.1e}")


def _cases() -> Iterator[tuple[str, str, str]]:
    distances = ("euclidean", "squared_euclidean", "cosine")
    for name, strategy in STRATEGIES.items():
        yield from itertools.product([name], ["cosine"] if strategy.of_similarities else distances, _KINDS)


def _far(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _farthest(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.max(np.abs(found - expected) / np.maximum(np.abs(expected), 1.0)))


def _data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, labels and the batch that is their order; in its last quarter, each image is of a class of its own."""
    rng = np.random.default_rng(0)
    quarter = _BATCH_SIZE // 4
    labels = np.concatenate([rng.choice(3, _BATCH_SIZE - quarter, p=[0.6, 0.3, 0.1]), np.arange(3, 3 + quarter)])
    images = rng.integers(0, 256, (_BATCH_SIZE, 12, 12, 1))
    return images.astype(np.uint8), labels.astype(np.int32), np.arange(_BATCH_SIZE, dtype=np.int32)


def _triplets(labels: np.ndarray) -> np.ndarray:
    """A batch of triplets that were mined before: an anchor, its positive, its negative, the next anchor, ..."""
    rng = np.random.default_rng(1)
    triplets = []
    for anchor in rng.choice(np.flatnonzero(labels < 2), len(labels)):
        same = np.flatnonzero(labels == labels[anchor])
        triplets += [anchor, rng.choice(same[same != anchor]), rng.choice(np.flatnonzero(labels != labels[anchor]))]
    return np.array(triplets, np.int32)


def _child_gradients(question: dict[str, Any]) -> None:
    devices.start_tensorflow()
    strategy = devices.share_among(question["devices"])
    import keras

    from model.training.class_vectors import ClassVectors
    from model.training.feeding import replicate, windows
    from model.training.learner import Learner
    from model.training.model_fn import model_fn
    from model.training.network import build_network
    from model.training.steps import compile_train_step

    images, labels, batch = _data()
    found: dict[str, np.ndarray] = {}
    for name, distance, kind in _cases():
        params = Params.model_validate(
            dict(
                batch_size=_BATCH_SIZE, num_channels=4, embedding_size=8, triplet_strategy=name, distance=distance,
                margin=None if STRATEGIES[name].margin is None else 0.3, **_KINDS[kind],
            )
        )  # fmt: skip
        with strategy.scope():
            network = _linear_float64(params) if kind == "float64" else build_network(params, images.shape[1:])
            optimizer = keras.optimizers.SGD(1.0, name="sgd")
            learner = Learner(params, network, optimizer)
            if params.strategy.learns_class_vectors:
                learner.class_vectors = ClassVectors(labels, params.embedding_size, seed=1)
            learned = [*network.trainable_variables, *learner.vectors]
            optimizer.build(learned)
        before = [variable.numpy() for variable in learned]
        step = compile_train_step(local_model_fn if question["local"] else model_fn, learner, strategy)
        order = _triplets(labels) if params.strategy.mines else batch
        (window,) = windows(strategy, lambda _: order, range(1, 2), None)  # noqa: B023
        result = step(replicate(strategy, images), replicate(strategy, labels), window.on_devices, window.done)
        changes = [b - v.numpy() for b, v in zip(before, learned, strict=True)]
        case = f"{name} / {distance} / {kind}"
        found[f"{case}/gradient"] = np.concatenate([change.ravel() for change in changes])
        found[f"{case}/sums"] = np.array([[float(x) for x in pair] for pair in result.sums.values()])
    np.savez(question["path"], allow_pickle=False, **found)


def _linear_float64(params: Params):  # type: ignore[no-untyped-def]
    """A network of one layer, all in float64; the convolutions of `build_network` have no such arithmetic."""
    import keras

    layers = [keras.Input((12, 12, 1)), keras.layers.Flatten(dtype="float64")]
    initializer = keras.initializers.GlorotUniform(seed=1)
    layers.append(keras.layers.Dense(params.embedding_size, kernel_initializer=initializer, dtype="float64"))
    return keras.Sequential(layers, name="network")


def local_model_fn(features, labels, mode, params, network, step=0, class_vectors=None):  # type: ignore[no-untyped-def]
    """`model_fn`, whose loss knows the images of this device alone while it trains."""
    import tensorflow as tf

    from model import triplet_loss
    from model.training.model_fn import EstimatorSpec, ModeKeys, model_fn

    if mode != ModeKeys.TRAIN:
        return model_fn(features, labels, mode, params, network, step)
    embeddings = network(features, training=True)
    if class_vectors is not None:
        vectors = tf.cast(tf.convert_to_tensor(class_vectors.variable), embeddings.dtype)
        rows = class_vectors.rows_of(labels)
        loss = params.strategy.load()(rows, embeddings, vectors, params.margin, **params.of_the_loss)
        return EstimatorSpec(mode, {"embeddings": embeddings}, loss, {"loss": (loss, tf.ones_like(loss))})
    seed = tf.stack([tf.cast(params.seed, tf.int64), tf.cast(step, tf.int64)])
    sums = params.strategy.load()(labels, embeddings, params.margin, params.distance, seed, **params.of_the_loss)
    return EstimatorSpec(mode, {"embeddings": embeddings}, triplet_loss.mean(*sums["loss"]), sums)


# ------------------------------------------------------------------------------------------- time and memory


def _loss(sizes: list[int]) -> None:
    print(f"{'B':>6}{'':4}" + "".join(f"{part:^24}" for part in ("all anchors", "a half", "a quarter")))
    for size in sizes:
        cells = []
        for part in (1, 2, 4):
            seconds, memory = map(float, _ask("loss", {"size": size, "part": part}).split())
            cells.append(f"{seconds:>11.2f} s {memory / 1e9:>6.2f} GB  ")
        print(f"{size:>6}{'':4}" + "".join(cells), flush=True)


def _child_loss(question: dict[str, Any]) -> None:
    devices.start_tensorflow()
    import tensorflow as tf

    from model import triplet_loss

    size, part = question["size"], question["part"]
    rng = np.random.default_rng(0)
    labels, embeddings = rng.integers(0, 10, size), rng.normal(size=(size, 64)).astype(np.float32)
    anchors = size // part
    places = np.arange(anchors, dtype=np.int32)

    @tf.function
    def step(labels: tf.Tensor, embeddings: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            among = None if part == 1 else triplet_loss.Candidates(labels, embeddings, places, 1 / part)
            sums = triplet_loss.batch_all_sums(labels[:anchors], embeddings[:anchors], 0.5, "euclidean", None, among)
            total, count = sums["loss"]
        return total / count, tape.gradient(total, embeddings)

    seconds = []
    for _ in range(4 if size <= 8192 else 2):
        started = time.perf_counter()
        step(tf.constant(labels), tf.constant(embeddings))[1].numpy()
        seconds.append(time.perf_counter() - started)
    print(statistics.median(seconds[1:]), 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _parts() -> None:
    print(f"{'images at a time':>18}{'seconds':>10}{'memory':>12}{'gradient':>12}")
    with tempfile.TemporaryDirectory() as folder:
        whole = None
        for size in (None, 1024, 256, 64):
            path = Path(folder, f"{size}.npy")
            seconds, memory = map(float, _ask("parts", {"size": size, "path": str(path)}).split())
            gradient = np.load(path)
            whole = gradient if whole is None else whole
            print(
                f"{size or 4096:>18,}{seconds:>10.1f}{memory / 1e9:>9.2f} GB{_far(gradient, whole):>12.1e}", flush=True
            )


def _child_parts(question: dict[str, Any]) -> None:
    devices.start_tensorflow()
    import keras
    import tensorflow as tf

    from model.training.learner import Learner
    from model.training.model_fn import model_fn
    from model.training.network import build_network
    from model.training.steps import compile_train_step

    best = Params.from_json("experiments/mnist_best/params.json")
    whole_batch = {"batch_size": 4096, "num_classes_per_batch": None, "num_images_per_class": None}
    plain = {"use_batch_norm": False, "augmentation": "off", "augmentation_strength": 1.0, "precision": "float32"}
    params = Params.model_validate(
        {**best.model_dump(mode="json"), **whole_batch, **plain, "micro_batch_size": question["size"]}
    )
    train = datasets.load_for(best, None).train
    images, labels = train.images[:4096], train.labels[:4096].astype(np.int32)
    network, optimizer = build_network(params, images.shape[1:]), keras.optimizers.SGD(1.0, name="sgd")
    optimizer.build(network.trainable_variables)
    before = [variable.numpy() for variable in network.trainable_variables]
    step = compile_train_step(model_fn, Learner(params, network, optimizer), tf.distribute.get_strategy())
    arguments = map(tf.constant, (images, labels, np.arange(4096, dtype=np.int32)[np.newaxis]))
    there = [*arguments]
    seconds = []
    for number in range(3):
        started = time.perf_counter()
        float(step(*there, tf.constant(number, tf.int64)).sums["loss"][0])
        seconds.append(time.perf_counter() - started)
        if not number:
            changes = [b - v.numpy() for b, v in zip(before, network.trainable_variables, strict=True)]
            np.save(question["path"], np.concatenate([change.ravel() for change in changes]))
    print(statistics.median(seconds[1:]), 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _steps() -> None:
    print(f"{'B':>6}{'network':>16}{'one device':>14}{'two devices':>14}{'local mining':>14}   milliseconds a step")
    for size, channels in itertools.product((64, 256, 1024), (4, 32)):
        rows: dict[str, list[float]] = {}
        for _ in range(3):
            for name, number, local in (("one", 1, False), ("two", 2, False), ("local", 2, True)):
                question = {"devices": number, "local": local, "size": size, "channels": channels}
                rows.setdefault(name, []).append(1e3 * float(_ask("steps", question)))
        cells = "".join(f"{statistics.median(row):>14.1f}" for row in rows.values())
        print(f"{size:>6}{channels:>7} channels{cells}", flush=True)


def _child_steps(question: dict[str, Any]) -> None:
    devices.start_tensorflow()
    strategy = devices.share_among(question["devices"])
    from model.training.feeding import replicate, windows
    from model.training.learner import Learner
    from model.training.model_fn import build_optimizer, model_fn
    from model.training.network import build_network
    from model.training.steps import compile_train_step

    rng = np.random.default_rng(0)
    size = question["size"]
    images, labels = rng.integers(0, 256, (size, 28, 28, 1)).astype(np.uint8), rng.integers(0, 10, size, np.int32)
    params = Params.model_validate({"batch_size": size, "num_channels": question["channels"]})
    with strategy.scope():
        network = build_network(params, images.shape[1:])
        optimizer = build_optimizer(params, 1)
        optimizer.build(network.trainable_variables)
    step = compile_train_step(
        local_model_fn if question["local"] else model_fn, Learner(params, network, optimizer), strategy
    )
    there = replicate(strategy, images), replicate(strategy, labels)
    seconds = []
    (window,) = windows(strategy, lambda _: np.arange(size, dtype=np.int32), range(1, 21), None)
    for _ in window.steps:
        started = time.perf_counter()
        float(step(*there, window.on_devices, window.done).sums["loss"][0])
        seconds.append(time.perf_counter() - started)
    print(statistics.median(seconds[3:]))


if __name__ == "__main__":
    main()
