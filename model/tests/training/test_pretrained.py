"""Files of weights: the right one is taken over by every layer, any other is refused in one line."""

import hashlib
import socket
import time
import warnings

import h5py
import keras
import numpy as np
import pytest

from model.common.errors import UserError
from model.networks.entries import NETWORKS, WeightsFile
from model.params import Params
from model.training import pretrained
from model.training.network import build_network

SHAPE = (32, 32, 3)
SMALL = "MobileNetV3Small"


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory):
    """The weights of an application of Keras, as a user saves them; random, and none as it was made."""
    keras.utils.set_random_seed(3)
    model = keras.applications.MobileNetV3Small(include_top=False, weights=None, input_shape=SHAPE)
    rng = np.random.default_rng(0)
    model.set_weights([value + rng.uniform(0.01, 0.1, value.shape) for value in model.get_weights()])
    path = tmp_path_factory.mktemp("weights") / "mine.weights.h5"
    save(model, path)
    return path, model


def save(model, path):
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # Keras with NumPy 2
        model.save_weights(path)


def params_of(path, **changes):
    return Params(**{"network": SMALL, "weights": str(path), "weights_sha256": sha256(path), **changes})


def refusal(params, place="experiments/mine/params.json"):
    with pytest.raises(UserError) as caught:
        pretrained.load(build_network(params, SHAPE), params, place)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 900
    return message


@pytest.mark.slow
def test_the_features_are_those_of_keras_with_its_own_preprocessing(keras_file):
    path, model = keras_file
    params = params_of(path, embedding_size=4)
    network = build_network(params, SHAPE)
    pretrained.load(network, params, path)
    features = keras.Model(network.input, network.get_layer("embedding").input)
    pixels = np.random.default_rng(1).integers(0, 256, (3, *SHAPE)).astype(np.float32)
    expected = model(keras.applications.mobilenet_v3.preprocess_input(pixels)).numpy().mean(axis=(1, 2))
    np.testing.assert_allclose(features(pixels / 255), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert np.std(expected) > 1e-3


@pytest.mark.slow
def test_a_file_that_is_not_the_one(keras_file, tmp_path):
    path, _ = keras_file
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for name, other in (("flipped", bytes(flipped)), ("truncated", content[:-1000])):
        damaged = tmp_path / f"{name}.weights.h5"
        damaged.write_bytes(other)
        said = refusal(params_of(damaged, weights_sha256=sha256(path)))
        assert said.startswith(f"{damaged}: its SHA-256 is {sha256(damaged)}, expected {sha256(path)}")
    assert f'"weights_sha256": "{sha256(path)}"' in refusal(params_of(path, weights_sha256=None))
    gone = Params(network=SMALL, weights=str(tmp_path / "gone.weights.h5"), weights_sha256="0" * 64)
    assert "there is no such file" in refusal(gone)


@pytest.mark.slow
def test_a_file_whose_digest_is_right_and_whose_content_is_not(keras_file, tmp_path):
    path, model = keras_file
    truncated = tmp_path / "truncated.weights.h5"
    truncated.write_bytes(path.read_bytes()[:-1000])
    other = tmp_path / "other.weights.h5"
    save(keras.Sequential([keras.Input(SHAPE), keras.layers.Conv2D(3, 3)]), other)
    text = tmp_path / "text.weights.h5"
    text.write_text("no weights")
    shifted = tmp_path / "shifted.weights.h5"
    shifted.write_bytes(path.read_bytes())
    with h5py.File(shifted, "a") as file:
        layers = file["layers"]
        alike: dict = {}
        for name, group in layers.items():
            if "vars" in group and len(group["vars"]):
                shapes = tuple(group["vars"][key].shape for key in sorted(group["vars"]))
                alike.setdefault((name.rstrip("0123456789"), shapes), []).append(name)
        first, second = next(names for names in alike.values() if len(names) == 2)
        layers.move(first, "beside"), layers.move(second, first), layers.move("beside", second)
    model.load_weights(shifted)  # Keras sees nothing: two layers of one shape have changed places
    model.load_weights(path)
    for damaged in (truncated, other, text, shifted):
        said = refusal(params_of(damaged))
        assert said.startswith(f"{damaged}: no weights of the network {SMALL} without its top"), said


def test_the_names_digests_and_addresses_of_imagenet_are_those_of_keras(monkeypatch):
    """Keras is asked to download, and what it would download is read off."""
    asked = []

    class Asked(Exception):
        pass

    def get_file(fname, origin, cache_subdir=None, file_hash=None):
        asked.append((fname, origin, file_hash or ""))
        raise Asked

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    entry = NETWORKS[SMALL].imagenet
    with pytest.raises(Asked):
        keras.applications.MobileNetV3Small(include_top=False, input_shape=(224, 224, 3))
    assert asked == [(entry.name, entry.url, entry.digest)]


@pytest.mark.proof
@pytest.mark.parametrize("name", [name for name, entry in NETWORKS.items() if entry.imagenet])
def test_the_same_of_all_networks(name, monkeypatch):
    asked = []

    def get_file(fname, origin, cache_subdir=None, file_hash=None):
        asked.append((fname, origin, file_hash or ""))
        raise InterruptedError

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    entry = NETWORKS[name].imagenet
    with pytest.raises(InterruptedError):
        vars(keras.applications)[name](include_top=False, input_shape=(224, 224, 3))
    assert asked == [(entry.name, entry.url, entry.digest)]


def imagenet(monkeypatch, tmp_path, url, digest):
    import dataclasses

    entry = dataclasses.replace(NETWORKS[SMALL], imagenet=WeightsFile(url, digest))
    monkeypatch.setitem(NETWORKS, SMALL, entry)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    return Params(network=SMALL, weights="imagenet")


def test_without_network_one_line_says_which_file_goes_where(monkeypatch, tmp_path):
    params = imagenet(monkeypatch, tmp_path, "http://127.0.0.1:9/some/file.h5", "0" * 32)
    with pytest.raises(UserError) as caught:
        pretrained.find(params, "params.json")
    assert f"{tmp_path}/models/file.h5: not there" in str(caught.value)
    assert f"http://127.0.0.1:9/some/file.h5, and put it into {tmp_path}/models" in str(caught.value)
    assert not (tmp_path / "models").exists()


@pytest.mark.slow
def test_a_silent_server_is_not_waited_for(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "_NETWORK_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/file.h5"
        params = imagenet(monkeypatch, tmp_path, url, "0" * 32)
        began = time.monotonic()
        with pytest.raises(UserError, match="not there, and cannot be downloaded"):
            pretrained.find(params, "params.json")
        assert time.monotonic() - began < 5


def test_a_file_of_imagenet_that_is_there_is_taken_if_it_is_right(monkeypatch, tmp_path):
    (tmp_path / "models").mkdir()
    path = tmp_path / "models/file.h5"
    path.write_bytes(b"weights")
    url = "http://127.0.0.1:9/file.h5"
    params = imagenet(monkeypatch, tmp_path, url, hashlib.md5(b"weights").hexdigest())
    assert pretrained.find(params, "params.json") == path
    path.write_bytes(b"weightz")
    with pytest.raises(UserError, match="damaged, or another version"):
        pretrained.find(params, "params.json")
