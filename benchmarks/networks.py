"""Kills a training of each network, lets it go on, and compares the bits with those of one that was not killed.

    python -m benchmarks.networks --data_dir data/grocery

Each line: the network, the precision, what a step takes, and whether all tensors of the last checkpoints are equal, and
whether the exported model gives the embeddings of the checkpoint in a process of its own, with TensorFlow alone. The
networks begin with random weights in a file, are frozen for an epoch, and are killed before and after that.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_NETWORKS = ("MobileNetV3Small", "EfficientNetV2B0", "ResNet50")
_IMAGES, _BATCH, _STEPS = 84, 12, 20  # so that an epoch has 7 steps

_SERVE = """
import sys
import numpy, tensorflow
images = numpy.load(sys.argv[2])
model = tensorflow.saved_model.load(sys.argv[1])  # kept, as its functions need its variables
numpy.save(sys.argv[3], model.serve(images)["embeddings"].numpy())
"""


def main() -> None:
    """Compares, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", default=_NETWORKS)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _train(options.data_dir, *options.child)
        return
    for network in options.networks:
        for precision in ("float32", "mixed_bfloat16"):
            with tempfile.TemporaryDirectory() as folder:
                said = _compare(options.data_dir, network, precision, Path(folder))
                print(f"{network:<18}{precision:<16}{said}", flush=True)


def _compare(data_dir: Path, network: str, precision: str, folder: Path) -> str:
    from model.training import checkpoints

    def start(name: str) -> subprocess.Popen:
        child = ["--child", network, precision, str(folder / name), str(folder / "begin.weights.h5")]
        command = [sys.executable, "-m", "benchmarks.networks", "--data_dir", str(data_dir), *child]
        return subprocess.Popen(command, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}, stdout=subprocess.PIPE)

    whole = start("whole")
    told = whole.communicate()[0].decode().split()[-1]
    for after in (5, 10):
        process = start("killed")
        while process.poll() is None and not (folder / "killed/checkpoints" / checkpoints.name_of(after)).is_dir():
            time.sleep(0.02)
        process.kill()
        process.wait()
    (folder / "begin.weights.h5").unlink()  # not needed any more
    start("killed").communicate()
    ends = []
    for name in ("whole", "killed"):
        newest = checkpoints.load_newest(folder / name)
        ends.append((newest.step, newest.digest) if newest else None)
    same = "equal bits" if ends[0] == ends[1] else f"DIFFERENT {ends}"
    return f"{told} ms  step {ends[0][0] if ends[0] else None}, {same}; {_serve(folder)}"


def _serve(folder: Path) -> str:
    import numpy as np

    (exported,) = (folder / "whole/export").iterdir()
    arguments = [str(exported), str(folder / "whole/images.npy"), str(folder / "served.npy")]
    subprocess.run([sys.executable, "-c", _SERVE, *arguments], check=True, cwd=folder, stderr=subprocess.DEVNULL)
    served, ours = np.load(folder / "served.npy"), np.load(folder / "whole/embeddings.npy")
    return f"served embeddings differ by {np.abs(served - ours).max():.1e} (length {np.linalg.norm(ours[0]):.2f})"


def _train(data_dir: Path, network: str, precision: str, model_dir: str, weights: str) -> None:
    """Trains, in a process of its own; prints milliseconds a step."""
    from model.common.devices import start_tensorflow

    start_tensorflow()
    import keras
    import numpy as np

    from model.data import datasets
    from model.data.input_fn import TrainInput, train_input_fn
    from model.data.partition import divide
    from model.params import Params
    from model.training.estimator import Estimator, RunConfig
    from model.training.model_fn import model_fn
    from model.training.network import build_features

    plain = {"dataset": data_dir.name, "image_size": 96, "network": network}
    if not Path(weights).exists() and not (Path(model_dir) / "checkpoints").exists():
        keras.utils.set_random_seed(1)
        build_features(Params.model_validate(plain), (96, 96, 3)).save_weights(weights)
    known = Path(f"{weights}.sha256")
    if not known.exists():
        known.write_text(hashlib.sha256(Path(weights).read_bytes()).hexdigest())
    params = Params.model_validate(
        {
            **plain,
            "weights": weights,
            "weights_sha256": known.read_text(),
            "frozen_epochs": 1,
            "num_epochs": 3,
            "batch_size": _BATCH,
            "augmentation": "photo",
            "normalize_embeddings": True,
        }
    )
    data = train_input_fn(divide(datasets.load_for(params, data_dir), params), params)
    chosen = np.linspace(0, len(data.images) - 1, _IMAGES).astype(int)
    order = np.random.default_rng(0)
    batches = [order.permutation(_IMAGES)[:_BATCH].astype(np.int32) for _ in range(_STEPS)]
    few = TrainInput(data.images[chosen], data.labels[chosen] % 5, lambda step: batches[step], _BATCH)
    estimator = Estimator(model_fn, model_dir, params, RunConfig(5, 5, 5, precision))
    estimator.train(lambda: few, _STEPS)
    images = few.images[:8]
    np.save(Path(model_dir) / "images.npy", images)
    np.save(Path(model_dir) / "embeddings.npy", estimator.predict(lambda: images)["embeddings"])
    estimator.export_saved_model(Path(model_dir) / "export", images.shape[1:])
    state = estimator.checkpoint("newest").state
    print(f"{1000 * state.timed_seconds / max(state.timed_steps, 1):.0f}")


if __name__ == "__main__":
    main()
