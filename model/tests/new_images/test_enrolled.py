"""predict.py --gallery and --false_accept_rate as a user runs them, with digits that the network never saw."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

import predict
from model.common import cli
from model.common.draws import Stream, permutation
from model.data.partition import divide
from model.experiment import open_experiment
from model.new_images.answers import Gallery, NewImages, classify
from model.new_images.convert import Converted
from model.new_images.refusal import LookedUp, Refusal, Strangers, refuse, why_so_few_cannot
from model.params import Params
from model.scoring.identification import GallerySize, choose_threshold
from model.start import start
from model.tests.drawings import draw
from model.tests.experiments import digits, estimator, write_params
from model.tests.images import save
from model.tests.new_images.test_answers import ask, refused

READER = {"num_blocks": 2, "num_channels": 16, "embedding_size": 16, "holdout_classes": [1, 3, 4, 6, 7, 9]}
NAMES = {1: "one", 3: "three", 4: "four"}
OFF = ["--false_accept_rate", "off"]


@pytest.fixture(scope="module")
def trained(made_once):
    """An experiment that has learned four digits; to be read only."""

    def train(folder):
        start(write_params(folder, **READER, num_epochs=4), None).train()
        cli._end_log()

    return made_once("has_learned_four_digits", train)


@pytest.fixture
def model_dir(trained, tmp_path):
    """A copy, to be changed."""
    return shutil.copytree(trained, tmp_path / "experiment")


@pytest.fixture
def gallery(tmp_path):
    """Five test images each of three digits that nobody learned from, in class folders, with odd files between."""
    test = digits().test
    for digit, name in NAMES.items():
        for number, index in enumerate(np.flatnonzero(test.labels == digit)[:5]):
            save(tmp_path / "people" / name / f"{number}.png", test.images[index, ..., 0])
    (tmp_path / "people" / "one" / "Thumbs.db").write_bytes(b"x")
    return tmp_path / "people"


@pytest.fixture
def asked(tmp_path):
    """Other images: ten each of all digits, called by them."""
    test = digits().test
    for digit in range(10):
        for index in np.flatnonzero(test.labels == digit)[10:20]:
            save(tmp_path / "asked" / f"{digit}-{index:03}.png", test.images[index, ..., 0])
    return tmp_path / "asked"


def said(capsys, *arguments):
    return json.loads(ask(capsys, *arguments, "--json"), parse_constant=pytest.fail)


def embeddings_of(model_dir, images):
    return estimator(model_dir, **READER).predict(lambda: images)["embeddings"].astype(np.float64)


# ------------------------------------------------------------------------------------------- enrol


@pytest.mark.slow
def test_images_are_looked_up_in_the_gallery_and_nowhere_else(model_dir, gallery, asked, capsys):
    content = said(capsys, "--model_dir", model_dir, "--gallery", gallery, asked, "--neighbors", 3, *OFF)
    files = sorted(gallery.rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file))[..., np.newaxis] for file in files])
    enrolled = embeddings_of(model_dir, pixels)
    assert content["gallery"] == str(gallery) and len(content["images"]) == 100
    assert content["refusal"] is None and content["why_no_refusal"] == "--false_accept_rate off"
    right = []
    for image in content["images"]:
        distances = np.linalg.norm(enrolled - np.array(image["embedding"]), axis=1)
        np.testing.assert_allclose([n["distance"] for n in image["neighbors"]], np.sort(distances)[:3], atol=1e-4)
        for neighbor in image["neighbors"]:
            assert neighbor["file"] == str(files[neighbor["index"]])
            assert neighbor["label"] == files[neighbor["index"]].parent.name
        if (digit := int(image["file"].split("/")[-1][0])) in NAMES:
            right.append(image["predicted"] == NAMES[digit])
    assert len(right) == 30 and np.mean(right) > 0.5  # by chance it would be a third
    assert not (model_dir / "eval" / "gallery.npz").exists()  # the training images were not embedded


@pytest.mark.slow
def test_all_forms_of_a_gallery_say_the_same(model_dir, gallery, asked, capsys):
    command = ["--model_dir", model_dir, asked, *OFF, "--gallery"]
    of_folder = said(capsys, *command, gallery)
    rows = [f"{file.relative_to(gallery)},{file.parent.name}" for file in sorted(gallery.rglob("*.png"))]
    for name in ("people.csv", "images.csv"):
        (gallery / name).write_text("\n".join(["path,label", *rows]))
        of_table = said(capsys, *command, gallery / name)
        assert of_table["images"] == of_folder["images"]
    assert said(capsys, *command, gallery) == of_folder  # by its images.csv


@pytest.mark.slow
def test_an_enrolled_image_has_distance_0_to_itself_whatever_it_takes_to_convert_it(model_dir, gallery, capsys):
    """Photographed as people do: large, black on white, in colour, with transparency."""
    for name, picture in {
        "a.png": draw(3, (300, 200), ink=0, paper=255).convert("RGB"),
        "b.jpg": draw(4, (90, 120), ink=20, paper=240).convert("RGB"),
        "c.png": draw(1, (64, 64), ink=255, paper=0).convert("RGBA"),
    }.items():
        save(gallery / name.split(".")[0] / name, picture)
    files = [gallery / "a" / "a.png", gallery / "b" / "b.jpg", gallery / "c" / "c.png", gallery / "one" / "0.png"]
    content = said(capsys, "--model_dir", model_dir, "--gallery", gallery, *files, "--neighbors", 1, *OFF)
    for file, image in zip(files, content["images"], strict=True):
        assert image["predicted"] == file.parent.name and image["neighbors"][0]["file"] == str(file)
        assert image["neighbors"][0]["distance"] < 1e-4
    assert "inverted" in content["images"][0]["conversions"] and content["images"][3]["conversions"] == []


@pytest.mark.slow
def test_the_gallery_is_embedded_once_and_whatever_changes_is_noticed(model_dir, gallery, asked, embedded, capsys):
    file = min(asked.iterdir())
    other = shutil.copytree(gallery, gallery.with_name("others"))
    command = ["--model_dir", model_dir, file, *OFF, "--gallery"]
    first = said(capsys, *command, gallery)
    assert said(capsys, *command, gallery) == first and embedded == [1, 15, 1]
    said(capsys, *command, other)
    assert said(capsys, *command, gallery) == first and embedded[3:] == [1, 15, 1]
    del embedded[:]
    one = gallery / "one" / "0.png"
    kept, status = one.read_bytes(), one.stat()
    changes = [
        (lambda: (gallery / "one" / "new.png").write_bytes(kept), 16),
        (lambda: (gallery / "one" / "new.png").unlink(), 15),
        (lambda: (gallery / "three" / "0.png").replace(one), 14),
        (lambda: one.write_bytes(kept), 14),
        (lambda: os.utime(one, ns=(status.st_atime_ns, status.st_mtime_ns + 1)), 14),
        (lambda: (gallery / "one").rename(gallery / "uno"), 14),
    ]
    for change, number in changes:
        change()
        said(capsys, *command, gallery)
        assert embedded == [1, number]
        del embedded[:]
    (path,) = (p for p in (model_dir / "eval").glob("gallery-*.npz") if len(np.load(p)["embeddings"]) == 14)
    whole = path.read_bytes()
    expected = said(capsys, *command, gallery)
    for damaged in (b"", whole[: len(whole) // 2], whole[:700] + bytes([whole[700] ^ 4]) + whole[701:]):
        path.write_bytes(damaged)
        assert said(capsys, *command, gallery) == expected and path.read_bytes() == whole


@pytest.mark.slow
def test_one_class_with_one_image(model_dir, tmp_path, capsys):
    file = save(tmp_path / "people" / "anna" / "1.png", digits().test.images[0, ..., 0])
    lines = ask(capsys, "--model_dir", model_dir, "--gallery", file.parents[1], file, *OFF).splitlines()
    assert lines[0].split() == ["image", "predicted", "votes", "nearest", "gallery", "images", "(euclidean)"]
    assert lines[1].split()[1:] == ["anna", "1/1", "anna", "0.00"]
    assert lines[3] == "Every image gets a name, also of a stranger: --false_accept_rate off"


@pytest.mark.slow
def test_all_damaged_images_of_a_gallery_are_named(model_dir, gallery, asked, embedded, capsys):
    for name in ("a.png", "b.jpg"):
        (gallery / "one" / name).write_bytes(b"no image")
    line = refused(capsys, "--model_dir", model_dir, "--gallery", gallery, min(asked.iterdir()))
    assert line.startswith("2 of 17 images cannot be read: ") and "one/a.png" in line and "one/b.jpg" in line
    assert embedded == [1]


def test_a_gallery_that_is_none_is_told_before_anything_happens(tmp_path, monkeypatch, capsys):
    image = save(tmp_path / "1.png", digits().test.images[0, ..., 0])
    monkeypatch.setattr(predict, "start", pytest.fail)
    for path in (tmp_path / "nowhere", tmp_path, image):
        assert str(path) in refused(capsys, "--model_dir", tmp_path, "--gallery", path, image)
    assert list(tmp_path.iterdir()) == [image]


# ------------------------------------------------------------------------------------------- refuse


@pytest.mark.slow
def test_strangers_are_unknown_as_often_as_the_loops_say(model_dir, gallery, asked, embedded, capsys):
    command = ["--model_dir", model_dir, "--gallery", gallery, asked, "--false_accept_rate", 0.2]
    content = said(capsys, *command)
    params = Params(**{**json.loads((model_dir / "params.json").read_text())})
    data, unseen = digits(), divide(digits(), params).unseen
    assert [data.class_names[label] for label in unseen] == list("134679")
    parts = [split.where(np.isin(split.labels, unseen)) for split in (data.test, data.train)]
    points = np.concatenate([embeddings_of(model_dir, part.images) for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    assert embedded[:4] == [100, 15, len(parts[0].labels), len(parts[1].labels)]
    expected = choose_threshold(points, labels, GallerySize(3, 5), 0.2, params.split_seed)
    refusal = content["refusal"]
    assert refusal["threshold"] == pytest.approx(expected.distance, rel=1e-3)
    assert (refusal["classes"], refusal["num_classes"], refusal["false_accept_rate"]) == ("unseen", 3, 0.2)
    assert (refusal["gallery_classes"], refusal["gallery_images_per_class"]) == (3, 5)
    assert (refusal["tried_classes"], refusal["tried_images_per_class"]) == (2, 5)
    for name in ("false_positive", "false_negative"):
        rate = getattr(expected, name)
        for end, value in (("", rate.value), ("_low95", rate.low95), ("_high95", rate.high95)):
            assert refusal[f"{name}_identification_rate{end}"] == pytest.approx(value, abs=0.01)
    for image in content["images"]:
        nearest = image["neighbors"][0]
        is_unknown = nearest["distance"] > refusal["threshold"]
        assert image["predicted"] == (None if is_unknown else nearest["label"])
        assert len(image["neighbors"]) == 5 and (image["votes"] == 0) == is_unknown
    strangers = [image for image in content["images"] if int(image["file"].split("/")[-1][0]) not in NAMES]
    refused_ones = [image["predicted"] is None for image in strangers]
    assert any(refused_ones) and any(image["predicted"] is not None for image in content["images"])

    by_default = said(capsys, *command[:-2])["refusal"]
    assert by_default["false_accept_rate"] == 0.01 and by_default["threshold"] < refusal["threshold"]

    del embedded[:]
    lines = ask(capsys, *command).splitlines()
    assert embedded == [100]  # all else is kept
    for line, image in zip(lines[1:101], content["images"], strict=True):
        name, votes = line.split()[1:3]
        assert (name, votes) == (("unknown", "-") if image["predicted"] is None else (name, f"{image['votes']}/5"))
        assert name == (image["predicted"] or "unknown")
    text = " ".join(" ".join(lines[101:]).split())
    assert f"unknown: the nearest is farther than {refusal['threshold']:.4f}" in text
    assert f"strangers: {refusal['false_positive_identification_rate']:.2%} [" in text
    assert "3 classes never trained on, which did not choose the threshold, in galleries of 2 classes x 5" in text
    assert "this gallery has 3 classes x 5: the rate of strangers is an upper bound" in text
    assert max(map(len, lines)) <= 100


@pytest.mark.slow
def test_what_is_kept_of_strangers_is_checked(model_dir, gallery, asked, embedded, capsys):
    command = ["--model_dir", model_dir, "--gallery", gallery, min(asked.iterdir()), "--false_accept_rate", 0.2]
    expected = said(capsys, *command)
    path = model_dir / "eval" / "strangers.npz"
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:900] + bytes([whole[900] ^ 4]) + whole[901:]):
        path.write_bytes(damaged)
        assert said(capsys, *command) == expected and path.read_bytes() == whole


@pytest.mark.slow
def test_a_rate_that_cannot_be_promised(model_dir, gallery, asked, capsys):
    command = ["--model_dir", model_dir, "--gallery", gallery, min(asked.iterdir()), "--false_accept_rate"]
    line = refused(capsys, *command, "1e-6")
    assert line.startswith(f"{model_dir}: --false_accept_rate 1e-06: cannot be promised by ")
    smallest = line.rsplit(" ", 1)[1]
    assert said(capsys, *command, smallest)["refusal"]["false_accept_rate"] == float(smallest) < 0.02


@pytest.mark.parametrize("are_unseen", [True, False])
def test_classes_that_were_learned_from_tell_too_little_of_strangers(are_unseen):
    labels = np.repeat(np.arange(10), 4)
    points = np.random.default_rng(0).normal(size=(40, 3))
    lines = refuse(Strangers(points, labels, are_unseen), np.array([0, 1]), 0.2, 1).as_lines()
    assert any("strangers may come nearer" in line for line in lines) != are_unseen


def test_why_a_rate_cannot_be_promised():
    labels = np.repeat(np.arange(10), 4)
    points = np.random.default_rng(0).normal(size=(40, 3))
    for strangers, gallery, said in (
        (Strangers(points[:8], labels[:8], True), [0], "at least 4 classes never trained on, of two images or more"),
        (Strangers(points[:8], labels[:8], True), [0], "received 2; add some, see holdout_classes"),
        (Strangers(points, labels, False), [0, 1], "by 20 images of strangers, a half of the 10 test classes, in a"),
        (Strangers(points, labels, False), [0, 1], "gallery of 2 classes x 1; the smallest is 0.05"),
        (Strangers(points, labels, False), list(range(900)), "x 1; no rate can be; add such classes, or enrol fewer"),
    ):
        why = refuse(strangers, np.array(gallery), 0.001, 230)
        assert said in why and "\n" not in why
    assert why_so_few_cannot(4) is None
    assert [why_so_few_cannot(number).count(f"received {number};") for number in range(4)] == [1] * 4


def test_a_rate_that_is_missed_is_told_and_so_is_what_nobody_can_know():
    """The classes that judge come nearer than those that choose; no image is of a class in the gallery."""
    labels = np.repeat(np.arange(40), 5)
    judging = permutation(7, Stream.CALIBRATION_HALVES, number=1, size=40)[:20]
    far = np.random.default_rng(0).uniform(5, 9, 200)
    for other, is_missed in ((far, False), (np.where(np.isin(labels, judging), 1, far), True)):
        refusal = refuse(LookedUp(labels, np.full(200, np.inf), other), np.array([50, 50, 51]), 0.02, 7)
        lines, content = refusal.as_lines(), refusal.as_json()
        assert ("    more than asked for: too few classes chose the threshold" in lines) == is_missed
        assert lines[2 + is_missed].startswith("  enrolled: not known how many are unknown or misnamed")
        assert content["num_enrolled_images"] == 0 and content["misnamed"] is None
        assert [content[f"false_negative_identification_rate{end}"] for end in ("", "_low95", "_high95")] == [None] * 3
        assert (content["gallery_classes"], content["tried_classes"], content["classes"]) == (2, 2, "unseen")


def test_a_class_that_is_called_unknown_is_told_from_strangers():
    one = Converted(np.zeros((1, 1, 1), np.uint8), (1, 1), "grey", (), False)
    near, far = np.zeros(1, np.float32), np.full(1, 9, np.float32)
    images = NewImages(["near.png", "far.png"], [one] * 2, np.stack([near, far]))
    labels = np.repeat(np.arange(10), 4)
    points = labels[:, np.newaxis] + np.random.default_rng(0).normal(0, 0.01, (40, 1))
    found = choose_threshold(points, labels, GallerySize(1, 1), 0.1, 230)
    refusal = Refusal(found, 0.1, GallerySize(1, 1), True)
    said = classify(images, Gallery(np.zeros((1, 1), np.float32), np.array([0]), ["unknown"]), 5, refusal)
    assert [image["predicted"] for image in said.as_json()["images"]] == ["unknown", None]
    lines = said.as_text().splitlines()
    assert [line.split()[1:3] for line in lines[1:3]] == [["unknown", "1/1"], ["unknown", "-"]]
    assert 'A class of the gallery is called "unknown": its images have votes.' in lines


def test_the_nearest_decides_where_images_may_be_unknown():
    """It is what is measured; without refusal most of the neighbours decide."""
    one = Converted(np.zeros((1, 1, 1), np.uint8), (1, 1), "grey", (), False)
    images = NewImages(["x.png"], [one], np.zeros((1, 1), np.float32))
    gallery = Gallery(np.array([[1.0], [2.0], [3.0]], np.float32), np.array([0, 1, 1]), ["cat", "dog"])
    labels = np.repeat(np.arange(10), 4)
    found = choose_threshold(labels[:, np.newaxis] * 20.0, labels, GallerySize(1, 1), 0.1, 230)
    assert classify(images, gallery, 3, "").predictions[0].label == "dog"
    (seen,) = classify(images, gallery, 3, Refusal(found, 0.1, GallerySize(1, 1), True)).predictions
    assert (seen.label, seen.votes, len(seen.neighbors)) == ("cat", 1, 3)


# ------------------------------------------------------------------------------------------- among the training images


@pytest.mark.slow
def test_strangers_to_the_training_images_are_unknown_by_default(model_dir, asked, embedded, capsys):
    """Against loops over all distances, in which half of the digits that nobody learned from choose the threshold."""
    command = ["--model_dir", model_dir, asked]
    content = said(capsys, *command)
    data, unseen = digits(), np.array([1, 3, 4, 6, 7, 9])
    in_gallery = np.flatnonzero(~np.isin(data.train.labels, unseen))
    gallery, of_test = (embeddings_of(model_dir, part.images) for part in (data.train.where(in_gallery), data.test))
    of_train = embeddings_of(model_dir, data.train.images)
    dealt = unseen[permutation(230, Stream.CALIBRATION_HALVES, number=1, size=6)]

    def nearest(points):
        return np.array([np.sqrt(((gallery - point) ** 2).sum(axis=1)) for point in points])  # (N, G)

    def of_classes(classes):
        return [
            nearest(np.concatenate([of_test[data.test.labels == c], of_train[data.train.labels == c]])).min(axis=1)
            for c in classes
        ]

    chosen_by, judged_by = of_classes(dealt[3:]), of_classes(dealt[:3])
    refusal = content["refusal"]
    threshold = refusal["threshold"]
    steps = np.sort(np.concatenate(chosen_by))
    last, beyond = steps[steps <= threshold][-1], steps[steps > threshold][0]
    assert threshold == pytest.approx((last + beyond) / 2, rel=1e-3)
    assert np.mean([np.mean(distances <= last) for distances in chosen_by]) <= 0.01
    assert np.mean([np.mean(distances <= beyond) for distances in chosen_by]) > 0.01
    assert refusal["false_positive_identification_rate"] == pytest.approx(
        np.mean([np.mean(distances <= threshold) for distances in judged_by]), abs=0.005
    )
    is_known = ~np.isin(data.test.labels, unseen)
    distances, labels = nearest(of_test[is_known]), data.test.labels[is_known]
    named = data.train.labels[in_gallery][distances.argmin(axis=1)]
    is_unknown = distances.min(axis=1) > threshold
    assert refusal["false_negative_identification_rate"] == pytest.approx(
        np.mean(is_unknown | (named != labels)), abs=0.01
    )
    assert refusal["misnamed"] == pytest.approx(np.mean(~is_unknown & (named != labels)), abs=0.01)
    assert (refusal["false_accept_rate"], refusal["classes"], refusal["num_classes"]) == (0.01, "unseen", 3)
    assert refusal["num_images"] == sum(map(len, judged_by)) and refusal["num_enrolled_images"] == len(labels)
    assert (refusal["gallery_classes"], refusal["gallery_images_per_class"]) == (4, -(-len(in_gallery) // 4))
    assert content["why_no_refusal"] is None and "gallery" not in content
    for image in content["images"]:
        first = image["neighbors"][0]
        assert image["predicted"] == (None if first["distance"] > threshold else first["label"])
        for neighbor in image["neighbors"]:
            assert (
                neighbor["label"] == str(data.train.labels[neighbor["index"]]) and int(neighbor["label"]) not in unseen
            )
            distance = np.linalg.norm(of_train[neighbor["index"]] - np.array(image["embedding"]))
            assert neighbor["distance"] == pytest.approx(distance, abs=1e-4)
    refused_ones = [image["predicted"] is None for image in content["images"]]
    are_strange = [int(image["file"].split("/")[-1][0]) in unseen for image in content["images"]]
    assert np.mean(np.array(refused_ones)[are_strange]) > 0.8 and not all(refused_ones)

    del embedded[:]
    assert said(capsys, *command) == content and embedded == [100]
    path = model_dir / "eval" / "looked_up.npz"
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:700] + bytes([whole[700] ^ 4]) + whole[701:]):
        path.write_bytes(damaged)
        assert said(capsys, *command) == content and path.read_bytes() == whole
    lines = ask(capsys, *command).splitlines()
    assert max(map(len, lines)) <= 100
    text = " ".join(" ".join(lines[101:]).split())
    assert f"farther than {threshold:.4f}, the threshold for --false_accept_rate 0.01 " in text
    assert f"did not choose the threshold, and {len(labels)} test images of the 4 others" in text


@pytest.mark.slow
def test_off_names_every_image_as_ever(model_dir, asked, embedded, capsys):
    """Also by the training images of classes that nobody learned from."""
    content = said(capsys, "--model_dir", model_dir, asked, *OFF)
    assert embedded == [100, 1438] and content["refusal"] is None
    named = {image["predicted"] for image in content["images"]}
    assert None not in named and "3" in named


@pytest.mark.slow
@pytest.mark.parametrize("classes", [[1, 3, 4], None])
def test_too_few_unseen_classes_name_every_image_as_ever(tmp_path, gallery, asked, embedded, capsys, classes):
    model_dir, file = write_params(tmp_path / "few", holdout_classes=classes), min(asked.iterdir())
    experiment, run = open_experiment(model_dir, None), estimator(model_dir, holdout_classes=classes)
    run.train(lambda: experiment.train_input, 2)
    expected = f"at least 4 classes never trained on, of two images or more each, received {len(classes or [])}"
    off = said(capsys, "--model_dir", model_dir, asked, *OFF)
    for command in (["--model_dir", model_dir, asked], ["--model_dir", model_dir, file, "--gallery", gallery]):
        content = said(capsys, *command)
        assert content["refusal"] is None and all(image["predicted"] for image in content["images"])
        assert content["why_no_refusal"].startswith(f"--false_accept_rate 0.01 cannot be promised: expected {expected}")
        lines = ask(capsys, *command).splitlines()
        assert "Every image gets a name, also of a stranger: --false_accept_rate 0.01 cannot be promised: " in " ".join(
            lines
        )
        if "gallery" in content:
            assert content["why_no_refusal"].endswith("it is tried out with the test classes") == (classes is None)
        else:
            assert content["images"] == off["images"]
    line = refused(capsys, "--model_dir", model_dir, asked, "--false_accept_rate", 0.3)
    assert line.startswith(f"{model_dir}: --false_accept_rate 0.3: cannot be promised: expected {expected}")
    assert set(embedded) == {100, 1438, 1, 15} and embedded.count(1438) == 1  # nothing of strangers
    if classes is None:  # then the test classes tell of them, where they are asked
        content = said(capsys, "--model_dir", model_dir, file, "--gallery", gallery, "--false_accept_rate", 0.3)
        assert content["refusal"]["classes"] == "test" and content["why_no_refusal"] is None


@pytest.mark.slow
def test_a_smaller_rate_than_the_images_can_promise(model_dir, asked, capsys):
    command = ["--model_dir", model_dir, min(asked.iterdir()), "--false_accept_rate"]
    line = refused(capsys, *command, "1e-6")
    assert line.startswith(f"{model_dir}: --false_accept_rate 1e-06: cannot be promised by ")
    smallest = line.rsplit(" ", 1)[1]
    assert said(capsys, *command, smallest)["refusal"]["false_accept_rate"] == float(smallest) < 0.005


@pytest.mark.slow
def test_classes_that_are_only_tested_are_strangers_and_nothing_is_known_of_others(tmp_path, capsys):
    train, data_dir = digits().train, tmp_path / "data"
    for digit in range(9):
        for index in np.flatnonzero(train.labels == digit)[:12]:
            folder = data_dir / ("train" if digit < 4 else "test") / str(digit)
            save(folder / f"{index}.png", train.images[index, ..., 0])
    model_dir = write_params(tmp_path / "mine", dataset="mine", batch_size=16)
    experiment, run = open_experiment(model_dir, data_dir), estimator(model_dir, dataset="mine", batch_size=16)
    run.train(lambda: experiment.train_input, 2)
    command = ["--model_dir", model_dir, "--data_dir", data_dir, min((data_dir / "train" / "3").iterdir())]
    assert "36 images of strangers, a half of the 5 classes never trained" in said(capsys, *command)["why_no_refusal"]
    content = said(capsys, *command, "--false_accept_rate", 0.2)
    assert content["images"][0]["predicted"] == "3"  # at distance 0 of itself
    refusal = content["refusal"]
    assert (refusal["num_classes"], refusal["num_images"], refusal["gallery_classes"]) == (2, 24, 4)
    assert refusal["num_enrolled_images"] == 0 and refusal["false_negative_identification_rate"] is None
    assert "  enrolled: not known how many are unknown" in ask(capsys, *command, "--false_accept_rate", 0.2)
