"""What streaming costs: images a second of training on MNIST, all images on the device or those of each step.

    python -m benchmarks.feeding

The two alternate, in one process, with the network of `base_model` and with that of `mnist_fast`. Then how fast random
images are read from a store, warm, and cold where the cache of the system may be dropped (as root, on Linux).
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from model.common import devices
from model.common.images import Images, StoredImages
from model.data import datasets
from model.data.input_fn import TrainInput, train_input_fn
from model.data.partition import divide
from model.params import Params

_STEPS, _ROUNDS = 150, 9


def main() -> None:
    """Measures and prints."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(f"$ python -m benchmarks.feeding    # {devices.start_tensorflow()}\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("base_model", "mnist_fast"):
            _compare(name, Path(folder, name))
        print(f"\n{'':<22}{'cold':>12}{'warm':>12}   random images a second, 64 at a time")
        for side, channels, number in ((28, 1, 60_000), (96, 3, 40_000), (224, 3, 10_000)):
            _read(Path(folder, "pixels.u8"), (number, side, side, channels))


def _compare(name: str, folder: Path) -> None:
    params = Params.from_json(f"experiments/{name}/params.json")
    feeds = {kind: _steps(params, folder / kind, kind) for kind in ("memory", "stored")}
    rates: dict[str, list[float]] = {kind: [] for kind in feeds}
    for _ in range(_ROUNDS):
        for kind, steps in feeds.items():
            rates[kind].append(next(steps))
    ratios = [stored / memory for memory, stored in zip(rates["memory"][1:], rates["stored"][1:], strict=True)]
    memory, stored = (statistics.median(rates[kind][1:]) for kind in feeds)
    print(
        f"{name:<14} resident {memory:>8,.0f}   streamed {stored:>8,.0f} images/s   "
        f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
        flush=True,
    )


def _steps(params: Params, folder: Path, kind: str):  # type: ignore[no-untyped-def]
    """Makes steps, and yields images a second after each round of them."""
    from model.training.estimator import Estimator
    from model.training.feeding import Feed, replicate
    from model.training.model_fn import model_fn
    from model.training.steps import compile_train_step

    data = _train_input(params, folder, kind)
    estimator = Estimator(model_fn, folder, params)
    learner = estimator.new_learner(data, 10**6)
    feed = Feed(estimator.config.strategy, data.images)
    step_of = compile_train_step(model_fn, learner, estimator.config.strategy, streams=feed.streams)
    labels = replicate(estimator.config.strategy, data.labels)
    started = time.perf_counter()
    for steps, images, batches, done in feed.steps(data.batches, range(1, _STEPS * _ROUNDS + 1), None):
        for step in steps:
            result = step_of(images, labels, batches, done)
            if step % _STEPS == 0:
                float(result.gradient_norm)  # waits for the device
                yield _STEPS * data.batch_size / (time.perf_counter() - started)
                started = time.perf_counter()


def _train_input(params: Params, folder: Path, kind: str) -> TrainInput:
    in_memory = datasets.load_for(params, None)
    if kind == "memory":
        return train_input_fn(divide(in_memory, params), params)
    folder.mkdir(parents=True)
    for file in Path("data", params.dataset).iterdir():
        (folder / file.name).symlink_to(file.resolve())
    return train_input_fn(divide(datasets.load_for(params, folder, "stored"), params), params)


def _read(path: Path, shape: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(0)
    block = rng.integers(0, 256, (1000, *shape[1:]), np.uint8)
    with path.open("wb") as file:
        for _ in range(0, shape[0], len(block)):
            file.write(block.tobytes())
    images = StoredImages(path, shape)
    cold = "-"
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
        cold = f"{_rate(images, rng.permutation(shape[0])[:1280]):,.0f}"
    except OSError:
        pass
    some = rng.permutation(shape[0])[:6400]
    _rate(images, some)
    print(f"{f'{shape[1]} x {shape[2]} x {shape[3]}':<22}{cold:>12}{_rate(images, some):>12,.0f}", flush=True)


def _rate(images: Images, indices: np.ndarray) -> float:
    started = time.perf_counter()
    for start in range(0, len(indices), 64):
        images[indices[start : start + 64]]
    return len(indices) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
