"""The losses without the rest of the project: copied into an empty folder, and used from there by another program."""

import shutil
import subprocess
import sys

import pytest

from model.common.commands import ROOT

pytestmark = pytest.mark.slow

TRAIN = """
import sys
import keras, numpy as np
import triplet_loss
from mine import losses

labels = np.arange(64) % 4
images = (np.eye(4, 6)[labels] + 0.3 * np.random.default_rng(0).normal(size=(64, 6))).astype("float32")
for number, (policy, jit_compile) in enumerate([("float32", False), ("mixed_bfloat16", False), ("float32", True)]):
    keras.config.set_dtype_policy(policy)
    dense = keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(1))
    network = keras.Sequential([keras.Input((6,)), dense])
    loss = losses.BatchAllTripletLoss(margin=0.7, distance="squared_euclidean")
    network.compile(keras.optimizers.Adam(0.05), loss, jit_compile=jit_compile)
    assert network.jit_compile == jit_compile
    violated = lambda: float(triplet_loss.batch_all_triplet_loss(labels, network(images), 0.7)[1])
    before = violated()
    network.fit(images, labels, batch_size=32, epochs=8, verbose=0)
    assert violated() < 0.8 * before, (policy, jit_compile, before, violated())
    network.save(f"{number}.keras")
    np.save(f"{number}.npy", network.predict(images, verbose=0).astype("float32"))
np.savez("data.npz", labels=labels, images=images)
assert not any(name.partition(".")[0] == "model" for name in sys.modules)
"""

LOAD = """
import sys
import keras, numpy as np
from mine import losses  # which registers them

data = np.load("data.npz")
for number in range(3):
    network = keras.models.load_model(f"{number}.keras")
    assert type(network.loss) is losses.BatchAllTripletLoss
    assert (network.loss.margin, network.loss.distance) == (0.7, "squared_euclidean")
    np.testing.assert_array_equal(network.predict(data["images"], verbose=0), np.load(f"{number}.npy"))
    network.fit(data["images"], data["labels"], batch_size=32, epochs=1, verbose=0)
assert not any(name.partition(".")[0] == "model" for name in sys.modules)
"""


def test_copied_into_an_empty_folder_they_train_and_what_was_saved_is_loaded(tmp_path):
    shutil.copy(ROOT / "model" / "triplet_loss.py", tmp_path)
    (tmp_path / "mine").mkdir()
    for name in ("triplet_loss.py", "metric_losses.py", "losses.py"):
        shutil.copy(ROOT / "model" / name, tmp_path / "mine")
    for code in (TRAIN, LOAD):
        command = [sys.executable, "-W", "error:Model doesn't support:UserWarning", "-c", code]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
