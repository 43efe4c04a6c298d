"""What exports cost: size, difference, accuracy, and milliseconds an image in their own runtime beside ours.

    python -m benchmarks.export experiments/digits experiments/mnist_fast

Each network is exported in every form, and read by a process that does not know this project: plain TensorFlow, LiteRT,
ONNX Runtime. That process embeds the test images and a gallery of training images, 10,000 of each at most. Accuracy is
that of the nearest gallery image, found here by scikit-learn. Times are medians, for one image and for 64 at a time;
"ours" is `Trained.embed`, of one image and of all, of which it takes as many at a time as it likes. Of the gallery only
the size and the difference are told: it is looked up, not run. The table goes to `benchmarks/results/export.txt`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model.common import devices
from model.common.draws import stratified_sample
from model.common.images import subset

if TYPE_CHECKING:
    from model.runner import Trained

RESULTS = Path(__file__).parent / "results" / "export.txt"
MOST = 10_000

# By format: the package, and a program that defines `embed(images)` for the export in `folder`.
CLIENTS: Mapping[str, tuple[str, str]] = {
    "saved_model": (
        "tensorflow",
        """
import tensorflow as tf
network = tf.saved_model.load(folder + "/1")
embed = lambda images: network.serve(tf.constant(images))["embeddings"].numpy()
""",
    ),
    "litert": (
        "ai-edge-litert",
        """
from ai_edge_litert.interpreter import Interpreter
run = Interpreter(folder + "/model.tflite", num_threads=os.cpu_count()).get_signature_runner()
embed = lambda images: run(images=images)["embeddings"]
""",
    ),
    "onnx": (
        "onnxruntime",
        """
import onnxruntime
session = onnxruntime.InferenceSession(folder + "/model.onnx")
embed = lambda images: session.run(["embeddings"], {"images": images})[0]
""",
    ),
}
_CLIENT = """
import json, os, statistics, sys, time
from importlib.metadata import version
import numpy as np

folder, images, output, package = sys.argv[1:]
images = np.load(images)
{opens}
batches = [images[:1]] + [images[start : start + 64] for start in range(1, len(images), 64)]
np.save(output, np.concatenate([embed(batch) for batch in batches]))

def milliseconds(size):
    seconds = []
    for start in range(0, min(len(images), 50 * size) - size + 1, size):
        started = time.perf_counter()
        embed(images[start : start + size])
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[len(seconds) // 5 :]) / size

times = {{size: milliseconds(size) for size in (1, 64)}}
assert not any(name.partition(".")[0] == "model" for name in sys.modules)
print(json.dumps({{"times": times, "read_by": package + " " + version(package)}}))
"""


def main() -> None:
    """Measures, prints the table, and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dirs", type=Path, nargs="+", metavar="MODEL_DIR", help="trained experiments")
    options = parser.parse_args()
    lines = [
        "python -m benchmarks.export: milliseconds an image, one at a time and 64 at a time (ours: all at once).\n"
    ]
    lines.append(
        f"{'experiment':<20}{'format':<22}{'kB':>8}{'difference':>12}{'accuracy':>10}{'1':>9}{'64':>9}   read by"
    )
    for model_dir in options.model_dirs:
        lines += _measure(model_dir)
    lines.append(f"\n{devices.describe()}; differences from the network's own embeddings in float32")
    print("\n".join(lines))
    RESULTS.write_text("\n".join(lines) + "\n")


def client(format_name: str, folder: Path, images: Path, output: Path) -> dict[str, object]:
    """Lets a process of its own embed images by an export.

    Args:
        format_name: Of `CLIENTS`.
        folder: The export.
        images: A `.npy` file, (N, H, W, C) uint8.
        output: Where the embeddings, (N, D) float32, go, a `.npy` file.

    Returns:
        "times", milliseconds an image by the number at a time, and "read_by", the package and its version.
    """
    package, opens = CLIENTS[format_name]
    command = [sys.executable, "-c", _CLIENT.format(opens=opens), *map(str, (folder, images, output)), package]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _measure(model_dir: Path) -> list[str]:
    """Returns the lines of an experiment."""
    from model.exports import export
    from model.start import start

    trained = start(model_dir).trained()
    data = trained.experiment.data
    tested = stratified_sample(data.test.labels, 0, MOST)
    found = stratified_sample(data.train.labels, 0, MOST)
    images = np.concatenate([subset(data.test.images, tested)[:], subset(data.train.images, found)[:]])
    labels = data.test.labels[tested], data.train.labels[found]
    rows: list[tuple[Any, ...]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        np.save(folder / "images.npy", images)
        own, *milliseconds = _own(trained, images)
        exact = trained.in_float32().embed(images)
        times = [f"{value:.3f}" for value in milliseconds]
        rows.append((f"ours, {trained.precision}", None, np.abs(own - exact).max(), own, times, "this project"))
        for format_name in CLIENTS:
            exported = export.export(trained, format_name, folder / format_name)
            said = client(format_name, exported.folder, folder / "images.npy", folder / "embeddings.npy")
            embeddings = np.load(folder / "embeddings.npy")
            size = sum(path.stat().st_size for path in exported.files)
            times = [f"{value:.3f}" for value in said["times"].values()]  # type: ignore[attr-defined]
            rows.append((format_name, size, np.abs(embeddings - exact).max(), embeddings, times, said["read_by"]))
        gallery = export.export(trained, "embeddings", folder / "embeddings")
        size = sum(path.stat().st_size for path in gallery.files)
        rows.append(("embeddings", size, gallery.facts.difference, None, ["", ""], "any program"))
    return [
        f"{model_dir.name:<20}{name:<22}{'' if size is None else f'{size / 1000:,.0f}':>8}{difference:>12.1e}"
        f"{'' if embeddings is None else f'{_accuracy(embeddings, *labels):.4f}':>10}{times[0]:>9}{times[1]:>9}   {by}"
        for name, size, difference, embeddings, times, by in rows
    ]


def _own(trained: "Trained", images: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Returns embeddings, and milliseconds an image, of one alone and of all."""
    trained.embed(images)  # traced and compiled
    started = time.perf_counter()
    embeddings = trained.embed(images)
    of_all = 1000 * (time.perf_counter() - started) / len(images)
    seconds = []
    for number in range(50):
        started = time.perf_counter()
        trained.embed(images[number : number + 1])
        seconds.append(time.perf_counter() - started)
    return embeddings, 1000 * statistics.median(seconds[10:]), of_all


def _accuracy(embeddings: np.ndarray, tested: np.ndarray, found: np.ndarray) -> float:
    """Returns how many of the first embeddings have the label of the nearest of the others."""
    from sklearn.neighbors import KNeighborsClassifier

    queries, gallery = np.split(embeddings, [len(tested)])
    return KNeighborsClassifier(1).fit(gallery, found).score(queries, tested)


if __name__ == "__main__":
    main()
