"""How embeddings came to be: their places at one checkpoint after the other, as one moving picture."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tqdm
from matplotlib import animation
from matplotlib.figure import Figure

from model.common.errors import MAKE_ROOM, UserError
from model.pictures.plots import NAMED_CLASSES, draw_points, name_class
from model.pictures.view import View

_PICTURES = 120  # at most, of all the way
_PICTURES_BETWEEN = 8  # at most, from one checkpoint to the next
_PICTURES_PER_SECOND = 16
_PICTURES_AT_THE_END = 24  # repeats of the last one


def draw_evolution(folder: Path, labels: np.ndarray, places: Mapping[int, np.ndarray], view: View) -> list[Path]:
    """Writes `evolution.gif`, and `evolution.mp4` where ffmpeg is installed.

    Args:
        folder: Where to write.
        labels: (n,) integers.
        places: By global step, float arrays of shape (n, 2), in the order of time.
        view: Whose classes these are.

    Returns:
        The files.
    """
    steps = list(places)
    is_projected = view.shown.embeddings.shape[1] > 2
    # The scale of a projection means nothing; that of two-dimensional embeddings does.
    frames = [points / _spread(points) if is_projected else points for points in places.values()]
    figure = Figure(figsize=(6, 6.4))
    axes = figure.add_axes((0.07, 0.05, 0.91, 0.88))
    artists = draw_points(axes, frames[-1], labels, size=9)
    named = artists if len(artists) <= NAMED_CLASSES else ()
    names = {label: name_class(axes, view, label, (0.0, 0.0)) for label in named}
    everywhere = np.concatenate(frames)
    low, high = everywhere.min(axis=0), everywhere.max(axis=0)
    room = 0.05 * max((high - low).max(), 1e-6)
    axes.set(xlim=(low[0] - room, high[0] + room), ylim=(low[1] - room, high[1] + room))
    axes.set_aspect("equal")
    if is_projected:
        axes.set_axis_off()
    title = figure.suptitle("")

    between = min(_PICTURES_BETWEEN, max(1, _PICTURES // len(frames)))
    ways = [(i, (k + 1) / between) for i in range(len(frames) - 1) for k in range(between)]
    ways = [(0, 0.0), *ways, *ways[-1:] * _PICTURES_AT_THE_END] if ways else [(0, 0.0)]

    def draw(way: tuple[int, float]) -> None:
        i, part = way
        part = part * part * (3 - 2 * part)  # slow at both ends
        points = frames[i] if part == 0 else (1 - part) * frames[i] + part * frames[i + 1]
        for label, artist in artists.items():
            artist.set_offsets(points[labels == label])
        for label, name in names.items():
            name.xy = np.median(points[labels == label], axis=0)
        title.set_text(f"{view.subject}, step {steps[i + (part >= 0.5)]:,}")

    writers: dict[str, animation.AbstractMovieWriter] = {
        "evolution.gif": animation.PillowWriter(fps=_PICTURES_PER_SECOND)
    }
    if shutil.which("ffmpeg"):
        writers["evolution.mp4"] = animation.FFMpegWriter(fps=_PICTURES_PER_SECOND, bitrate=2000)
    for name, writer in writers.items():
        try:
            with writer.saving(figure, str(folder / name), dpi=90):
                for way in tqdm.tqdm(ways, name, disable=None, leave=False):
                    draw(way)
                    writer.grab_frame()
        except (BrokenPipeError, subprocess.CalledProcessError):
            raise UserError(f"{folder / name}: ffmpeg could not write it; {MAKE_ROOM}") from None
    return [folder / name for name in writers]


def _spread(points: np.ndarray) -> float:
    return float(max(np.sqrt(np.mean((points - points.mean(axis=0)) ** 2)), 1e-12))
