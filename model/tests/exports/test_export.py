"""An export goes where it should or nowhere, and one line says why: with forms that cost nothing to write."""

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from model.common.errors import UserError
from model.exports import export, formats, gallery, readme
from model.exports.formats import FORMATS, Format
from model.params import Params
from model.scoring.record import Record
from model.tests.experiments import digits


def flat(images):
    """Embeddings that need no network, (N, 64)."""
    return images[:].reshape(len(images), -1).astype(np.float32)


class Trained:
    """As `runner.Trained`, as far as an export asks."""

    def __init__(self, model_dir, precision="float32", scores=None):
        self.experiment = SimpleNamespace(
            model_dir=model_dir, data_dir=None, data=digits(), summary=SimpleNamespace(image_shape=(8, 8, 1))
        )
        self.params = Params(dataset="digits")
        self.checkpoint = SimpleNamespace(step=7, digest="ab" * 32, path=Path("here/step-7"))
        self.precision, self.scores = precision, scores and Record("step-7", "ab" * 32, scores)

    def in_float32(self):
        return Trained(self.experiment.model_dir)

    def embed(self, images):
        return flat(images) + (0.25 if self.precision != "float32" else 0)


def put_in(monkeypatch, write=None, embed=lambda images, indices: flat(images[indices]), packages=()):
    """Puts another form in the place of ONNX."""

    def write_content(trained, folder):
        (folder / "deep").mkdir()
        (folder / "deep" / "model.bin").write_text("new")

    form = Format("Another", write or write_content, lambda folder: embed, packages=dict(packages))
    monkeypatch.setitem(FORMATS, "onnx", form)


def files_in(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def export_to(tmp_path, **options):
    trained = Trained(tmp_path, **options)
    return export.export(trained, "onnx", export.folder_for(tmp_path, "onnx"))


def test_an_export_is_a_folder_that_says_what_it_is(tmp_path, monkeypatch, caplog):
    put_in(monkeypatch)
    scores = {"verification_threshold": 3.5, "false_accept_rate": 0.02, "false_reject_rate": 0.03}
    exported = export_to(tmp_path, scores=scores)
    assert exported.folder == tmp_path / "export" / "onnx" and not caplog.records
    content = files_in(exported.folder)
    assert set(content) == {"README.md", "deep/model.bin", "export.json"}
    assert [path.relative_to(exported.folder).as_posix() for path in exported.files] == sorted(content)
    about = json.loads(content["export.json"])
    assert about["images"] == {"shape": [None, 8, 8, 1], "dtype": "uint8", "fit": "stretch"}
    assert about["embeddings"] == {"shape": [None, 64], "dtype": "float32", "unit_length": False}
    assert about["threshold"]["euclidean_distance"] == 3.5 and about["threshold"]["of"] == "test"
    assert about["largest_difference"] == 0 and about["images_compared"] == 256
    assert about["checkpoint"] == {"step": 7, "digest": "ab" * 32}
    text = content["README.md"].decode()
    for said in ("(N, 8, 8, 1)", "(N, 64)", "**3.5**", "12.25", "2.00%", "3.00%", "bilinear", "step 7", "stretched"):
        assert said in text
    assert "same" in text and "not evaluated" not in text and "<= 3.5" in text


def test_where_classes_were_kept_out_the_threshold_is_theirs(tmp_path, monkeypatch):
    """By which `predict.py --pair` decides, too."""
    put_in(monkeypatch)
    scores = {"verification_threshold": 3.5, "false_accept_rate": 0.02, "false_reject_rate": 0.03}
    unseen = {"unseen/verification_threshold": 2.0, "unseen/false_accept_rate": 0.2, "unseen/false_reject_rate": 0.3}
    folder = export_to(tmp_path, scores=scores | unseen).folder
    assert json.loads((folder / "export.json").read_text())["threshold"] == {
        "euclidean_distance": 2.0, "false_accept_rate": 0.2, "false_reject_rate": 0.3, "of": "unseen",
    }  # fmt: skip
    text = (folder / "README.md").read_text()
    assert "**2**" in text and "20.00%" in text and "classes that were never trained on" in text and "3.5" not in text


@pytest.mark.parametrize(
    ("scores", "why", "advice"),
    [
        (None, "it was not evaluated", "--checkpoint here/step-7 makes them"),
        # As of two images of each class, of which one chooses and the other judges.
        ({"verification_threshold": float("nan")}, "the test images have too few pairs of one class", "add images"),
    ],
)
def test_why_there_is_no_threshold(tmp_path, monkeypatch, caplog, scores, why, advice):
    put_in(monkeypatch)
    exported = export_to(tmp_path, scores=scores)
    assert json.loads((exported.folder / "export.json").read_text())["threshold"] is None
    assert f"no threshold, as {why}." in (exported.folder / "README.md").read_text()
    assert advice in caplog.text


def test_the_difference_to_the_precision_of_the_training_is_told_apart(tmp_path, monkeypatch):
    put_in(monkeypatch)
    facts = export_to(tmp_path, precision="mixed_bfloat16").facts
    assert (facts.difference, facts.difference_in_training) == (0, 0.25)
    assert "mixed_bfloat16" in readme.text(facts)


def test_batches_of_one_and_of_many_are_compared_each_image_once(tmp_path, monkeypatch):
    seen = []
    put_in(monkeypatch, embed=lambda images, indices: seen.append(indices) or flat(images[indices]))
    export_to(tmp_path)
    assert [len(indices) for indices in seen] == [1, 255]
    assert len(np.unique(np.concatenate(seen))) == 256


@pytest.mark.parametrize(
    ("embed", "expected"),
    [
        (lambda images, indices: flat(images[indices]) * 1.01, "gives other embeddings, which differ by up to"),
        (lambda images, indices: flat(images[indices]) * np.nan, "gives other embeddings"),
        (lambda images, indices: flat(images[indices])[:, 1:], "gives other embeddings"),
    ],
)
def test_what_computes_something_else_is_not_exported(tmp_path, monkeypatch, embed, expected):
    put_in(monkeypatch)
    before = files_in(export_to(tmp_path).folder)
    put_in(monkeypatch, embed=embed)
    with pytest.raises(UserError, match=expected):
        export_to(tmp_path)
    assert files_in(tmp_path / "export" / "onnx") == before
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["onnx"]


def raising(error):
    def write(trained, folder):
        (folder / "half").write_text("half")
        raise error

    return write


@pytest.mark.parametrize(
    ("error", "raised", "expected"),
    [
        (
            ValueError("no such\noperation"),
            UserError,
            "the network cnn cannot be written as onnx, .*: no such operation;",
        ),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            UserError,
            "export/onnx: No space left on device; make room",
        ),
        (KeyboardInterrupt(), KeyboardInterrupt, ""),
    ],
)
def test_an_export_that_fails_leaves_the_earlier_one_and_nothing_else(tmp_path, monkeypatch, error, raised, expected):
    put_in(monkeypatch)
    before = files_in(export_to(tmp_path).folder)
    put_in(monkeypatch, write=raising(error))
    with pytest.raises(raised, match=expected or None):
        export_to(tmp_path)
    assert files_in(tmp_path / "export" / "onnx") == before
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["onnx"]


def test_an_earlier_export_is_replaced_as_a_whole(tmp_path, monkeypatch):
    put_in(monkeypatch, write=lambda trained, folder: (folder / "old.bin").write_text("old"))
    export_to(tmp_path)
    put_in(monkeypatch)
    assert "old.bin" not in files_in(export_to(tmp_path).folder)
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["onnx"]


def test_what_no_export_wrote_is_never_replaced(tmp_path, monkeypatch):
    put_in(monkeypatch)
    folder = tmp_path / "export" / "onnx"
    folder.mkdir(parents=True)
    assert export.folder_for(tmp_path, "onnx") == folder  # empty
    (folder / "thesis.tex").write_text("years")
    with pytest.raises(UserError, match=r"holds what no export wrote: thesis\.tex; move it away"):
        export.folder_for(tmp_path, "onnx")
    (folder / "thesis.tex").unlink()
    export_to(tmp_path)
    (folder / "deep" / "notes").write_text("mine")
    with pytest.raises(UserError, match=r"holds what no export wrote: deep/notes;"):
        export.folder_for(tmp_path, "onnx")
    (folder / "export.json").write_text('{"files": 3}')
    with pytest.raises(UserError, match="holds what no export wrote: README"):
        export.folder_for(tmp_path, "onnx")
    (tmp_path / "empty" / "inside").mkdir(parents=True)
    with pytest.raises(UserError, match="is no export, nor empty"):
        export.folder_for(tmp_path, "onnx", tmp_path / "empty")


def test_a_folder_that_cannot_be_renamed_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    put_in(monkeypatch)
    monkeypatch.chdir(tmp_path)
    for place in (Path(), tmp_path):
        with pytest.raises(UserError, match=r"the current folder or a mounted one, .*; name a folder in it"):
            export.folder_for(tmp_path / "mine", "onnx", place)
    (tmp_path / "volume").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "volume")
    with pytest.raises(UserError, match="volume: the current folder or a mounted one"):
        export.folder_for(tmp_path / "mine", "onnx", tmp_path / "volume")


def test_how_grey_files_of_16_bits_become_8_is_told(tmp_path, monkeypatch):
    """As `image_files.read_image` does it: 12 bits, 2048 of 4095 is 128."""
    import PIL.Image

    from model.data import image_files
    from model.data.decoding import Decoding

    put_in(monkeypatch)
    trained = Trained(tmp_path)
    trained.params = Params(dataset="digits", image_bits=12)
    assert "divided by 16, to 255 at most" in readme.text(export.export(trained, "onnx", tmp_path / "out").facts)
    PIL.Image.fromarray(np.full((8, 8), 2048, np.uint16)).save(tmp_path / "deep.png")
    assert (image_files.read_image(tmp_path / "deep.png", Decoding(image_bits=12)).pixels == 2048 // 16).all()


@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
def test_a_place_that_is_no_folder_is_refused(tmp_path, monkeypatch, kind):
    put_in(monkeypatch)
    place = tmp_path / "place"
    if kind == "file":
        place.write_text("")
    else:
        place.symlink_to(tmp_path if kind == "link" else tmp_path / "nowhere")
    with pytest.raises(UserError, match="place: a file or a link, expected a folder"):
        export.folder_for(tmp_path, "onnx", place)


def test_packages_that_are_missing_are_named_with_the_command(tmp_path, monkeypatch):
    put_in(monkeypatch, packages={"no_such_module": "no-such-package", "numpy": "numpy", "nor_this": "nor-this"})
    expected = "--format onnx: needs no-such-package and nor-this, .* pip install no-such-package nor-this$"
    with pytest.raises(UserError, match=expected):
        export.folder_for(tmp_path, "onnx")
    assert not list(tmp_path.iterdir())


def test_every_form_names_packages_that_its_reader_imports():
    assert FORMATS["onnx"].packages.keys() == {"tf2onnx", "onnx", "onnxruntime"}
    assert {name: bool(form.packages) for name, form in formats.FORMATS.items()} == {
        "saved_model": False, "litert": True, "onnx": True, "embeddings": False,
    }  # fmt: skip


HOSTILE = ['plain "quoted", with comma', "two\nlines", "=SUM(A1)", "caf\udce9.png", ""]


def test_a_table_holds_names_of_any_kind(tmp_path):
    import csv

    gallery.write(tmp_path, np.zeros((5, 2), np.float32), np.array(HOSTILE, object), HOSTILE[::-1])
    with (tmp_path / "images.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [row["name"] for row in rows] == HOSTILE and [row["label"] for row in rows] == HOSTILE[::-1]
    gallery.write(tmp_path, np.zeros((1, 2), np.float32), None, ["turned"])
    assert (tmp_path / "images.csv").read_text() == "id,name,label\n0,,turned\n"


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("shape", [(5, 8, 1), (8, 8, 3)])
def test_the_ten_lines_resize_as_the_data_are_resized(tmp_path, monkeypatch, fit, shape):
    """The README's `load` beside `image_files.read_image`, of a photo that lies on its side."""
    import PIL.Image

    from model.data import image_files
    from model.data.decoding import Decoding

    put_in(monkeypatch)
    trained = Trained(tmp_path)
    trained.experiment.summary.image_shape = shape
    trained.params = Params(dataset="digits", image_size=8, image_fit=fit)
    facts = export.export(trained, "onnx", tmp_path / "out").facts
    lines = readme.example(facts).splitlines()
    assert len([line for line in lines if line]) <= 10
    (start,) = (number for number, line in enumerate(lines) if line.startswith("def load"))
    scope = {"np": np, "Image": PIL.Image, "ImageOps": __import__("PIL.ImageOps").ImageOps}
    exec("\n".join(lines[start : start + 3]), scope)
    photo = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 47, 3), np.uint8))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    photo.convert("L" if shape[2] == 1 else "RGB").save(tmp_path / "photo.png", exif=exif)
    pixels = image_files.read_image(tmp_path / "photo.png", Decoding()).pixels
    expected = image_files.resize(pixels, shape[:2], fit)
    np.testing.assert_array_equal(scope["load"](tmp_path / "photo.png"), expected)
