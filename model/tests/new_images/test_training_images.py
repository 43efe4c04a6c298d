"""What is kept of the training images stands for them exactly as long as it is theirs."""

import dataclasses
import io
import json
import logging
import os
import shutil

import numpy as np
import pytest

from model.common.errors import UserError
from model.data import datasets
from model.experiment import open_experiment
from model.new_images import convert, training_images
from model.new_images.training_images import look_at, path_in, read
from model.tests.experiments import write_params
from model.tests.images import save

pytestmark = pytest.mark.slow


@pytest.fixture
def model_dir(tmp_path):
    """An experiment with photos of two classes on no common background, and its data."""
    draw = np.random.default_rng(0)
    for folder in ("a", "b"):
        for i in range(5):
            save(tmp_path / "data" / folder / f"{i}.png", draw.integers(0, 255, (6, 5, 3), np.uint8))
    return write_params(tmp_path / "experiment", dataset="mine", batch_size=4)


def data_of(model_dir):
    return model_dir.parent / "data"


def opened(model_dir):
    """The experiment as predict.py opens it, and what is known of its images."""
    known = read(model_dir)
    experiment = open_experiment(model_dir, data_of(model_dir), known and known.summary)
    return experiment, look_at(experiment, known)


@pytest.fixture
def reads(monkeypatch):
    """How often the data were read."""
    calls = []
    original = datasets.load_for
    monkeypatch.setattr(datasets, "load_for", lambda *arguments: calls.append(1) or original(*arguments))
    return calls


def as_plain(images):
    """All that is known of training images, to compare."""
    plain = {**vars(images.summary), **(vars(images.framing) if images.framing else {"framing": None})}
    return {
        name: (value.dtype, value.tolist()) if isinstance(value, np.ndarray) else value for name, value in plain.items()
    }


def test_the_second_time_no_image_is_read(model_dir, reads, caplog):
    with caplog.at_level(logging.INFO):
        first_experiment, first = opened(model_dir)
        said = [record.message for record in caplog.records]
        second_experiment, second = opened(model_dir)
    assert said == [f"Looking at the 8 training images; {path_in(model_dir)} keeps the result."]
    assert len(caplog.records) == 1 and len(reads) == 1
    assert as_plain(second) == as_plain(first)
    assert second_experiment.describe() == first_experiment.describe()
    data = datasets.load("mine", data_of(model_dir))
    assert second.summary.image_shape == (6, 5, 3) and second.summary.class_names == ("a", "b")
    assert second.summary.train_sha256 == data.train_sha256
    np.testing.assert_array_equal(second.summary.train_labels, data.train.labels)
    np.testing.assert_array_equal(second_experiment.data.train.images, data.train.images)  # read now that it is asked
    assert len(reads) == 2 and second_experiment.train_input.batch_size == 4


@pytest.mark.parametrize("peaks", [(255,), (90, 255)])
def test_how_images_lie_on_their_background_is_kept_to_the_bit(model_dir, peaks):
    for i, path in enumerate(sorted(data_of(model_dir).rglob("*.png"))):
        image = np.zeros((12, 12), np.uint8)
        image[3 : 8 + i % 2, 4:9] = peaks[i % len(peaks)]
        save(path, image)
    experiment, seen = opened(model_dir)
    expected = convert.learn_framing(experiment.data.train.images)
    assert seen.framing is not None and (seen.framing.peak is None) == (len(peaks) > 1)
    kept = read(model_dir)
    assert as_plain(kept) == as_plain(training_images.TrainingImages(experiment.summary, expected))


def touched(path):
    os.utime(path, ns=(0, 0))


def replaced(path):
    """Another content of the same size, which says that it is as old as the other one."""
    status, other = path.stat(), path.parent.parent / "other"
    other.write_bytes(bytes(status.st_size))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)
    assert path.stat().st_mtime_ns == status.st_mtime_ns and path.stat().st_size == status.st_size


def renamed(path):
    path.rename(path.with_name("5.png"))


def removed(path):
    path.unlink()


def added(path):
    shutil.copy(path, path.with_name("more.png"))


def added_by_a_link(path):
    path.with_name("more.png").symlink_to(path)


@pytest.mark.parametrize("change", [touched, replaced, renamed, removed, added, added_by_a_link])
def test_a_changed_file_is_noticed(model_dir, change):
    first, _ = opened(model_dir)
    known = read(model_dir).summary
    change(data_of(model_dir) / "a" / "2.png")
    if change is replaced:
        with pytest.raises(UserError, match=r"2\.png"):  # read again, and found to be no image
            open_experiment(model_dir, data_of(model_dir), known)
    else:
        now = open_experiment(model_dir, data_of(model_dir), known).summary
        assert now is not known and now.stamp != first.summary.stamp


@pytest.mark.parametrize("change", [{"image_size": 3}, {"on_damaged_image": "skip"}, {"batch_size": 3}])
def test_other_parameters_are_noticed(model_dir, reads, change):
    opened(model_dir)
    params = json.loads((model_dir / "params.json").read_text())
    (model_dir / "params.json").write_text(json.dumps({**params, **change}))
    experiment, _ = opened(model_dir)
    assert len(reads) == 2 and experiment.summary.image_shape == ((3, 3, 3) if "image_size" in change else (6, 5, 3))


@pytest.mark.parametrize("versions", [("source_sha256", "model.experiment"), ("_version_of", "model.data.datasets")])
def test_another_program_and_other_libraries_are_noticed(model_dir, reads, monkeypatch, versions):
    opened(model_dir)
    name, module = versions
    monkeypatch.setattr(f"{module}.{name}", lambda *_: "another")
    opened(model_dir)
    assert len(reads) == 2


def cut(content):
    return content[: len(content) // 2]


def flip(content):
    return content[:400] + bytes([content[400] ^ 4]) + content[401:]


def pickled(content):
    arrays = dict(np.load(io.BytesIO(content)))
    return saved({**arrays, "class_names": np.array([{}, "b"], object)}, allow_pickle=True)


def of_other_classes(content):
    arrays = dict(np.load(io.BytesIO(content)))
    return saved({**arrays, "class_names": np.array(["a"])})


def without_labels(content):
    arrays = dict(np.load(io.BytesIO(content)))
    return saved({name: array for name, array in arrays.items() if name != "train_labels"})


def of_unseen_classes_that_are_none(content):
    return saved({**dict(np.load(io.BytesIO(content))), "unseen": np.array([0, 2])})


def saved(arrays, allow_pickle=False):
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=allow_pickle, **arrays)
    return stream.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        flip,
        pickled,
        of_other_classes,
        of_unseen_classes_that_are_none,
        without_labels,
        lambda content: b"",
    ],
)
def test_a_damaged_file_is_made_anew(model_dir, reads, caplog, damage):
    _, first = opened(model_dir)
    path_in(model_dir).write_bytes(damage(path_in(model_dir).read_bytes()))
    assert read(model_dir) is None
    caplog.clear()
    with caplog.at_level(logging.INFO):
        _, second = opened(model_dir)
    assert len(reads) == 2 and as_plain(second) == as_plain(first) == as_plain(read(model_dir))
    assert [record.message[:10] for record in caplog.records] == ["Looking at"]


def test_a_folder_that_cannot_be_written_is_only_slower(model_dir, caplog):
    (model_dir / "eval").write_text("in the way")
    _, seen = opened(model_dir)
    assert seen.summary.image_shape == (6, 5, 3) and "training_images.npz: cannot be written" in caplog.text
    assert (model_dir / "eval").read_text() == "in the way"


def test_links_that_lead_in_circles_and_to_nothing_are_no_trouble(model_dir, reads):
    (data_of(model_dir) / "a" / "all").symlink_to(data_of(model_dir))
    (data_of(model_dir) / "a" / "gone").symlink_to("nowhere")
    opened(model_dir)
    opened(model_dir)
    assert len(reads) == 1


def test_names_of_classes_that_are_no_unicode_are_kept(model_dir):
    experiment, seen = opened(model_dir)
    named = dataclasses.replace(seen.summary, class_names=("\udc80", "two\nlines"))
    training_images.look_at(dataclasses.replace(experiment, summary=named), None)
    assert read(model_dir).summary.class_names == ("\udc80", "two\nlines")
