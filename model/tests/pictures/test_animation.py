"""Embeddings on their way: every checkpoint is a place that the moving picture comes by."""

import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from model.common.errors import UserError
from model.pictures.animation import draw_evolution
from model.tests.views import view

pytestmark = pytest.mark.slow


@pytest.fixture
def short_rest(monkeypatch):
    monkeypatch.setattr("model.pictures.animation._PICTURES_AT_THE_END", 1)


@pytest.fixture
def without_ffmpeg(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)


def frames(path):
    """All frames of a GIF in grey, (n, height, width), and how long each of them is shown, in ms."""
    with Image.open(path) as gif:
        shown, times = [], []
        for index in range(gif.n_frames):
            gif.seek(index)
            shown.append(np.asarray(gif.convert("L")))
            times.append(gif.info["duration"])
    return np.stack(shown), times


@pytest.mark.usefixtures("without_ffmpeg", "short_rest")
@pytest.mark.parametrize("size", [2, 3])
def test_an_animation(tmp_path, size):
    some = view(num_images=8, size=size)
    places = {step: some.points + step for step in (1, 5, 9)}
    (path,) = draw_evolution(tmp_path, some.shown.labels, places, some)
    assert [path.name for path in tmp_path.iterdir()] == ["evolution.gif"]
    shown, _ = frames(path)
    assert len(shown) >= 17
    assert np.any(shown[0] != shown[-1])


@pytest.mark.usefixtures("without_ffmpeg")
def test_points_go_from_where_they_were_to_where_they_are(tmp_path):
    """Two-dimensional embeddings keep their scale: one class walks from left to right, the other stays."""
    some = view(num_images=8, num_classes=2, size=2)
    labels = some.shown.labels
    left = np.where(labels[:, None] == 0, [[-5.0, 1.0]], [[0.0, -1.0]]).astype(np.float32)
    right = np.where(labels[:, None] == 0, [[5.0, 1.0]], [[0.0, -1.0]]).astype(np.float32)
    (path,) = draw_evolution(tmp_path, labels, {1: left, 9: right}, some)
    shown, times = frames(path)
    upper = shown[:, shown.shape[1] // 8 : shown.shape[1] // 2]  # below the title
    middle = [np.average(np.arange(upper.shape[2]), weights=(255.0 - frame).sum(axis=0)) for frame in upper]
    assert (np.diff(middle) >= -1).all() and middle[-1] - middle[0] > upper.shape[2] / 5
    assert times[-1] > 10 * times[0]  # it ends with a rest


@pytest.mark.usefixtures("without_ffmpeg", "short_rest")
def test_many_checkpoints_do_not_make_a_long_film(tmp_path, monkeypatch):
    some = view(num_images=8, num_classes=2, size=2)
    monkeypatch.setattr("model.pictures.animation._PICTURES", 12)
    places = {step: some.points + step / 10 for step in range(10)}
    (path,) = draw_evolution(tmp_path, some.shown.labels, places, some)
    shown, _ = frames(path)
    assert 10 <= len(shown) <= 12 + 1  # with the rest at the end


def test_an_animation_of_one_checkpoint(tmp_path):
    some = view()
    written = draw_evolution(tmp_path, some.shown.labels, {3: some.points}, some)
    assert written[0].name == "evolution.gif" and all(path.stat().st_size for path in written)


@pytest.mark.usefixtures("short_rest")
def test_a_film_can_be_read(tmp_path):
    if not shutil.which("ffmpeg"):
        pytest.skip("needs ffmpeg")
    some = view(num_images=8, num_classes=2, size=2)
    _, film = draw_evolution(tmp_path, some.shown.labels, {1: some.points, 2: some.points + 1}, some)
    assert film == tmp_path / "evolution.mp4"
    result = subprocess.run(["ffmpeg", "-i", film, "-f", "null", "-"], capture_output=True, text=True, check=True)
    assert "Video: h264" in result.stderr


def test_a_film_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    """Where there is no room, ffmpeg ends, and then nobody reads the pictures."""

    def gone(*_, **__):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr("matplotlib.animation.FFMpegWriter.saving", gone)
    with pytest.raises(
        UserError, match=rf"^{tmp_path}/evolution.mp4: ffmpeg could not write it; make room on the disk"
    ):
        draw_evolution(tmp_path, view().shown.labels, {1: view().points}, view())
