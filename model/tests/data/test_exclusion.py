"""Lists of images to leave out: the same for every source, and one line for a list that is not of these data."""

import json
import shutil

import numpy as np
import pytest

from model.common.errors import UserError
from model.common.images import StoredImages
from model.data import datasets, exclusion
from model.data.datasets import load
from model.data.decoding import Decoding
from model.experiment import open_experiment
from model.params import Params
from model.tests.data.test_idx_files import write_four
from model.tests.data.test_tfds_sets import SmallSet  # noqa: F401, which TFDS knows from then on
from model.tests.experiments import write_params
from model.tests.images import save


def write(tmp_path, text):
    path = tmp_path / "exclude.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture
def photos(tmp_path):
    """Ten training and two test images, each filled with its number."""
    for i in range(12):
        split = "train" if i < 10 else "test"
        save(tmp_path / f"photos/{split}/{'cat' if i % 2 else 'dog'}/{i}.png", np.full((4, 4), i, np.uint8))
    return tmp_path / "photos"


@pytest.fixture
def listed(photos, tmp_path):
    """The same as an images.csv."""
    shutil.copytree(photos, tmp_path / "listed/all")
    files = [path.relative_to(tmp_path / "listed") for path in sorted((tmp_path / "listed/all").rglob("*.png"))]
    lines = [f"{path},{path.parts[2]},{path.parts[1]}" for path in files]
    (tmp_path / "listed/images.csv").write_text("\n".join(["path,label,split", *lines]))
    return tmp_path / "listed"


def pixels(split):
    return split.images[:].reshape(len(split.labels), -1).tolist()


def without(rows, *indices):
    return [row for index, row in enumerate(rows) if index not in indices]


@pytest.mark.parametrize("kind", ["memory", "stored"])
@pytest.mark.parametrize("source", ["class folders", "images.csv", "IDX", "digits", "TFDS"])
def test_each_source_leaves_out_what_is_listed(tmp_path, photos, listed, source, kind):
    idx, empty = write_four(tmp_path / "idx"), tmp_path / "empty"
    empty.mkdir()
    name, folder, names = {
        "class folders": ("mine", photos, ["train/cat/3.png", "train/dog/0.png"]),
        "images.csv": ("mine", listed, ["all/train/cat/3.png", "all/train/dog/0.png"]),
        "IDX": ("mine", idx, ["train/1"]),
        "digits": ("digits", tmp_path, ["train/1437", "train/0", "train/700"]),
        "TFDS": ("small_set", empty, ["train/19", "train/4"]),
    }[source]
    whole = load(name, folder, kind=kind)
    data = load(name, folder, kind=kind, without=write(tmp_path, "\n".join(names)))
    places = [whole.train.names.tolist().index(name) for name in names]
    assert pixels(data.train) == without(pixels(whole.train), *places)
    assert data.train.labels.tolist() == without(whole.train.labels.tolist(), *places)
    assert data.train.names.tolist() == without(whole.train.names.tolist(), *places)
    assert pixels(data.test) == pixels(whole.test) and data.class_names == whole.class_names
    assert isinstance(data.train.images, StoredImages) == (kind == "stored")
    assert data.train_sha256 != whole.train_sha256
    assert data.notes[-1].startswith(f"{len(names)} of {len(whole.train.labels):,} training images are left out")


def test_a_list_of_a_list(tmp_path):
    """What is written names what was left out before and more, and is of the same labels, whatever is left out."""
    first = load("digits")
    text = first.exclusion_list(np.array([3, 5]))
    second = load("digits", without=write(tmp_path, text))
    assert second.train.names.tolist() == without(first.train.names.tolist(), 3, 5)
    text = second.exclusion_list(np.array([3]))  # what was number 4
    assert text.splitlines()[1:] == ["train/3", "train/5", "train/4"]
    third = load("digits", without=write(tmp_path, text))
    assert third.train.names.tolist() == without(first.train.names.tolist(), 3, 4, 5)


def test_a_list_may_be_written_by_hand(tmp_path, photos):
    text = "\ufeff# bad photos\r\n\r\ntrain/cat/1.png\r\ntrain/cat/1.png\r\n./train/dog/2.png"
    data = load("mine", photos, without=write(tmp_path, text))
    assert sorted(data.excluded.names) == ["train/cat/1.png", "train/dog/2.png"]


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n"])
def test_an_empty_list_leaves_nothing_out(tmp_path, text):
    data = load("digits", without=write(tmp_path, text))
    assert len(data.train.labels) == 1438 and data.notes[-1].startswith("0 of 1,438 training images are left out")


def test_odd_names_come_back(tmp_path):
    odd = ["#1.png", "a b .png", "käse.png", "x\udcff.png", " .png"]
    for i, name in enumerate(odd):
        save(tmp_path / "odd/train/cat" / name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
             np.full((4, 4), i, np.uint8))  # fmt: skip
    read = exclusion.read(write(tmp_path, exclusion.as_text(odd).encode("utf-8", "surrogateescape")))
    assert read.names == set(odd)
    with pytest.raises(UserError, match=r"a\\nb\.png: has a line break in its name"):
        exclusion.as_text(["a\nb.png"])


def test_test_images_stay_and_that_is_told(tmp_path, photos):
    save(photos / "val/cat/20.png", np.full((4, 4), 20, np.uint8))
    save(photos / "val/dog/21.png", np.full((4, 4), 21, np.uint8))
    data = load("mine", photos, without=write(tmp_path, "test/cat/11.png\nval/dog/21.png\ntrain/cat/1.png"))
    assert len(data.test.labels) == 2 and len(data.validation.labels) == 2 and len(data.train.labels) == 9
    assert data.notes[-1].endswith("; 2 that it lists are test or validation images, which stay")


def error_of(tmp_path, text, name="digits", folder=None, path=None):
    with pytest.raises(UserError) as caught:
        load(name, folder, without=path or write(tmp_path, text))
    message = str(caught.value)
    assert "\n" not in message and str(path or tmp_path / "exclude.txt") in message
    return message


def test_names_that_are_not_there(tmp_path):
    message = error_of(tmp_path, "train/1\ntrain/1438\ntrain/x\n\x1b[2J\nz")
    assert (
        "4 of 5 images that it names are not among those of digits: '\\x1b[2J', 'train/1438', 'train/x' and 1 more"
        in (message.replace("\\\\", "\\"))
    )
    assert "such as 'train/0'" in message


def test_numbers_of_other_labels(tmp_path):
    text = load("digits").exclusion_list(np.array([3]))
    first, second = write_four(tmp_path / "idx"), tmp_path / "idx"
    assert "its numbers are those of other training images or labels than mine has" in (
        error_of(tmp_path, text.replace("train/3", "train/0"), "mine", first)
    )
    text = load("mine", second).exclusion_list(np.array([0]))
    labels = (second / "train-labels-idx1-ubyte").read_bytes()
    (second / "train-labels-idx1-ubyte").write_bytes(labels[:-1] + bytes([labels[-1] ^ 1]))
    assert "its numbers are those of other training images" in error_of(tmp_path, text, "mine", second)


def test_paths_tell_by_themselves_what_they_are_of(tmp_path, photos):
    """A label that is put right does not make the list useless."""
    text = load("mine", photos).exclusion_list(np.array([0]))
    (photos / "train/dog/4.png").rename(photos / "train/cat/4.png")
    assert "#" not in text
    assert len(load("mine", photos, without=write(tmp_path, text)).train.labels) == 9


def test_too_much_is_left_out(tmp_path, photos):
    names = "".join(f"train/cat/{i}.png\n" for i in range(1, 10, 2))
    assert "leaves 5 of 10 training images, of 1 classes" in error_of(tmp_path, names, "mine", photos)
    data = load("mine", photos, without=write(tmp_path, names[:-16]))  # all cats but one
    assert np.bincount(data.train.labels).tolist() == [1, 5]


def test_no_list(tmp_path):
    assert "no such file in" in error_of(tmp_path, "", path=tmp_path / "none.txt")
    assert "cannot be read" in error_of(tmp_path, "", path=tmp_path)


def test_an_experiment_leaves_out_what_its_params_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "train/3\ntrain/4")
    model_dir = write_params(tmp_path / "one", exclude_images="exclude.txt")
    experiment = open_experiment(model_dir, None)
    assert len(experiment.train_input.labels) == 1436
    assert any(
        "2 of 1,438 training images are left out, as exclude.txt lists them." in line for line in experiment.describe()
    )
    again = open_experiment(model_dir, None, experiment.summary)
    assert again.summary is experiment.summary
    write(tmp_path, "train/3")
    again = open_experiment(model_dir, None, experiment.summary)
    assert again.summary is not experiment.summary and len(again.summary.train_labels) == 1437


def test_blank_images_are_left_out_as_well(tmp_path, photos):
    data = load("mine", photos, Decoding(blank=True), without=write(tmp_path, "train/cat/3.png"))
    assert len(data.train.images) == len(data.train.labels) == 9


def test_turned_copies_are_left_out_with_their_image(tmp_path):
    whole = load("digits", rotated="train")
    data = datasets.load_for(
        Params(dataset="digits", rotated_classes="train", exclude_images=str(write(tmp_path, "train/3"))), None
    )
    assert len(whole.train.labels) - len(data.train.labels) == 4


def test_the_key_is_in_the_schema():
    from model.common.commands import ROOT

    schema = json.loads((ROOT / "experiments" / "params.schema.json").read_text())
    assert "exclude_images" in schema["properties"]
