"""Exports in the hands of those they are for, each in a process of its own that does not know this project."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

import export
import train
from benchmarks.export import CLIENTS, client
from model.common import cli
from model.exports.formats import FORMATS
from model.start import start
from model.tests.experiments import digits, write_params
from model.tests.images import save

pytestmark = pytest.mark.slow


def run_here(script, *arguments):
    cli.run(script.main, "", list(map(str, arguments)), script.add_options)


def export_all(model_dir, names=tuple(FORMATS)):
    for name in names:
        run_here(export, "--model_dir", model_dir, "--format", name)


@pytest.fixture(scope="module")
def exported(trained, made_once):
    """A copy of the trained experiment with all its exports; to be read only."""

    def make(folder):
        export_all(shutil.copytree(trained, folder / "small"))

    return made_once("exported", make) / "small"


@pytest.fixture(scope="module")
def own(exported):
    """What the network itself says: the embeddings of the test images, and of the training images."""
    network = start(exported).trained()
    return network.embed(digits().test.images), network.embed(digits().train.images)


def run_example(folder, *arguments):
    """Runs the program in the README of an export, in that folder; returns what it prints."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 10 and "model" not in re.findall(r"import (\w+)", code)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", CLIENTS)
def test_a_program_of_its_own_computes_the_same(exported, own, tmp_path, name):
    """Of one image and of many, as near as rounding is; and as accurate, as scikit-learn finds."""
    data = digits()
    np.save(tmp_path / "images.npy", np.concatenate([data.test.images, data.train.images]))
    client(name, exported / "export" / name, tmp_path / "images.npy", tmp_path / "embeddings.npy")
    embeddings = np.load(tmp_path / "embeddings.npy")
    expected = np.concatenate(own)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, expected, atol=1e-5 * np.abs(expected).max())
    about = json.loads((exported / "export" / name / "export.json").read_text())
    assert about["largest_difference"] <= 1e-5 * np.abs(expected).max()
    queries, found = np.split(embeddings, [359])
    accuracy = KNeighborsClassifier(1).fit(found, data.train.labels).score(queries, data.test.labels)
    scores = json.loads((exported / "metrics.json").read_text())["metrics"]
    assert accuracy == pytest.approx(scores["knn_accuracy"], abs=1.5 / 359)  # ties


@pytest.mark.parametrize("name", ["litert", "onnx", pytest.param("saved_model", marks=pytest.mark.proof)])
def test_the_ten_lines_tell_whether_two_images_show_the_same(exported, own, tmp_path, name):
    threshold = json.loads((exported / "metrics.json").read_text())["metrics"]["verification_threshold"]
    labels = digits().test.labels
    pairs = [(0, int(np.flatnonzero(labels == labels[0])[1])), (0, int(np.flatnonzero(labels != labels[0])[0]))]
    for a, b in pairs[: 1 if name == "saved_model" else 2]:
        for place, index in (("a.png", a), ("b.png", b)):
            PIL.Image.fromarray(digits().test.images[index][..., 0]).save(tmp_path / place)
        verdict, distance = run_example(exported / "export" / name, tmp_path / "a.png", tmp_path / "b.png").split()
        expected = np.linalg.norm(own[0][a].astype(np.float64) - own[0][b])
        assert float(distance) == pytest.approx(expected, rel=1e-4)
        assert verdict == ("same" if expected < threshold else "different")


SEARCH = """
import csv, sys
import faiss, numpy as np
from qdrant_client import QdrantClient, models

embeddings, queries = np.load("embeddings.npy"), np.load(sys.argv[1])
with open("images.csv", encoding="utf-8", newline="") as file:
    images = list(csv.DictReader(file))
index = faiss.IndexFlatL2(embeddings.shape[1])
index.add(embeddings)
squared, of_faiss = index.search(queries, 5)

client = QdrantClient(":memory:")
size = models.VectorParams(size=embeddings.shape[1], distance=models.Distance.EUCLID)
client.create_collection("gallery", vectors_config=size)
client.upload_collection("gallery", vectors=embeddings, payload=images, ids=[int(image["id"]) for image in images])
answers = [client.query_points("gallery", query=query.tolist(), limit=5).points for query in queries]
np.savez(
    sys.argv[2],
    faiss=of_faiss, squared=squared,
    qdrant=[[point.id for point in points] for points in answers],
    distances=[[point.score for point in points] for points in answers],
    labels=[[point.payload["label"] for point in points] for points in answers],
)
assert not any(name.partition(".")[0] == "model" for name in sys.modules)
"""


def test_vector_databases_find_what_brute_force_finds(exported, own, tmp_path):
    queries, folder = own[0][:40], exported / "export" / "embeddings"
    np.save(tmp_path / "queries.npy", queries)
    command = [sys.executable, "-c", SEARCH, str(tmp_path / "queries.npy"), str(tmp_path / "found.npz")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    distances, nearest = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(own[1]).kneighbors(queries)
    np.testing.assert_allclose(found["squared"] ** 0.5, distances, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found["distances"], distances, rtol=1e-3, atol=1e-3)
    clear = np.diff(distances, axis=1).min(axis=1) > 1e-3  # no ties
    assert clear.sum() > 20
    for searched in ("faiss", "qdrant"):
        np.testing.assert_array_equal(found[searched][clear], nearest[clear])
    assert (found["labels"][clear] == digits().train.labels[nearest[clear]].astype(str)).all()


def test_the_ten_lines_of_the_gallery_find_itself_first(exported):
    lines = [line.split() for line in run_example(exported / "export" / "embeddings", 5).splitlines()]
    assert len(lines) == 6
    assert lines[0] == ["5", str(digits().train.labels[5]), "train/5", "0.0"]
    assert [float(distance) for *_, distance in lines] == sorted(float(distance) for *_, distance in lines)


def test_the_command_says_how_near_it_is_and_what_it_wrote(exported, tmp_path, capfd):
    run_here(export, "--model_dir", exported, "--format", "embeddings", "--output_dir", tmp_path / "there")
    output = capfd.readouterr()
    first, _, *written = output.out.splitlines()
    assert re.fullmatch(
        r"embeddings, step 180: largest difference from the network's own embeddings \S+, of 256 training images\.",
        first,
    )
    names = ["README.md", "embeddings.npy", "export.json", "images.csv"]
    assert written == [f"  {tmp_path / 'there' / name}" for name in names]
    assert not re.search("error|traceback", output.err, re.IGNORECASE)


def test_a_missing_package_is_one_line_before_anything_is_started(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as raised:
        run_here(export, "--model_dir", tmp_path / "nowhere", "--format", "onnx")
    assert raised.value.code == 2
    expected = (
        "--format onnx: needs tf2onnx and onnx and onnxruntime, which requirements.txt leaves out; install by: pip"
    )
    assert capsys.readouterr().err == f"{expected} install tf2onnx onnx onnxruntime\n"


def test_a_network_of_keras_applications_leaves_with_what_it_expects_of_photos(tmp_path):
    """The preprocessing of its family, the mirror images, and colours in their order are inside."""
    rng, photos, tints = np.random.default_rng(0), tmp_path / "photos", ("red", "green", "blue")
    for place, tint in enumerate(tints):
        for number in range(10):
            pixels = rng.integers(0, 128, (40, 36, 3), np.uint8)
            pixels[..., place] += 100
            save(photos / tint / f"{number}.png", pixels)
    model_dir = tmp_path / "photos_small"
    model_dir.mkdir()
    params = {
        "dataset": "photos", "image_size": 32, "image_fit": "crop", "network": "MobileNetV3Small", "batch_size": 12,
        "embedding_size": 8, "distance": "cosine", "test_time_augmentation": "mirror", "bn_momentum": 0.5,
        "num_epochs": 6,
    }  # fmt: skip
    (model_dir / "params.json").write_text(json.dumps(params))
    run_here(train, "--model_dir", model_dir, "--data_dir", photos, "--no_scores")
    network = start(model_dir, photos).trained().in_float32()
    images = np.tile(network.experiment.data.test.images[:], (12, 1, 1, 1))
    expected = network.embed(images)
    assert np.abs(network.embed(images[..., ::-1]) - expected).max() > 1e-3
    np.save(tmp_path / "images.npy", images)
    for name in ("litert", "onnx"):  # which convert what a SavedModel keeps
        run_here(export, "--model_dir", model_dir, "--data_dir", photos, "--format", name)
        folder = model_dir / "export" / name
        client(name, folder, tmp_path / "images.npy", tmp_path / "embeddings.npy")
        np.testing.assert_allclose(np.load(tmp_path / "embeddings.npy"), expected, atol=1e-4 * np.abs(expected).max())
        text = (folder / "README.md").read_text()
        for said in ("(N, 32, 32, 3)", "red, green, blue", "the middle cut out", "its mirror image"):
            assert said in text


@pytest.mark.proof
def test_views_batch_normalization_and_half_precision_leave_as_well(tmp_path):
    """Embeddings of length 1 that are means of nine views, by a network that was trained in bfloat16."""
    model_dir = write_params(
        tmp_path / "rich", num_epochs=1, use_batch_norm=True, normalize_embeddings=True,
        test_time_augmentation="shifts", precision="mixed_bfloat16",
    )  # fmt: skip
    run_here(train, "--model_dir", model_dir, "--no_scores")
    export_all(model_dir, CLIENTS)
    network = start(model_dir).trained()
    expected = network.in_float32().embed(digits().test.images)
    assert np.abs(network.embed(digits().test.images) - expected).max() > 1e-4
    np.save(tmp_path / "images.npy", digits().test.images)
    for name in CLIENTS:
        folder = model_dir / "export" / name
        client(name, folder, tmp_path / "images.npy", tmp_path / "embeddings.npy")
        np.testing.assert_allclose(np.load(tmp_path / "embeddings.npy"), expected, atol=1e-5)
        text = (folder / "README.md").read_text()
        assert "of length 1" in text and "eight shifted ones" in text and "no threshold" in text
        assert json.loads((folder / "export.json").read_text())["largest_difference_to_training"] > 1e-4
