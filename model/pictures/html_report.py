"""One HTML file with everything: it opens from the disk, without a network, and the scatter answers to the mouse.

The page is `templates/report.html`; its chart and its captions are made here.
"""

import base64
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from bokeh import embed, models, plotting, resources
from markupsafe import Markup
from sklearn.neighbors import NearestNeighbors

from model.pictures.plots import NAMED_CLASSES, class_color
from model.pictures.thumbnails import as_bytes, make_sprite, make_thumbnails
from model.pictures.view import View

# Neighbours shown of an image, and sides in pixels: of a thumbnail in the page, and of the sprite in the file.
_NEIGHBORS = 8
_CELL = 56

_MAX_SPRITE = 4096

# Heading and caption of each picture; {one} is an image of the gallery, in words.
_CAPTIONS = {
    "scatter": ("Every image as a dot", "Crosses are images whose nearest {one} is of another class."),
    "scatter-images": ("The images themselves", "As many as find a place."),
    "mistakes": (
        "The surest mistakes",
        "Each time the image, the {one} nearest to it, which is of another class, and the nearest one of its own "
        "class, with their distances.",
    ),
    "distances": (
        "Distances",
        "On the left the distances of pairs of images. On the right how much farther the nearest {one} of another "
        "class is than the nearest of the image's own: below 0 lie the mistakes.",
    ),
    "confusion": ("Which class is taken for which", "By the class of the nearest {one}."),
    "retrieval": (
        "What lies next to an image",
        "Blue frames: the same class. Red frames: another, named above.",
    ),
    "unseen-classes": (
        "Which unseen classes are told apart",
        "By the ROC AUC of two classes that nobody learned from: how often two images of one of them are nearer to "
        "each other than an image of one to an image of the other. At 1 a threshold tells the two apart, at 0.5 "
        "distance says nothing.",
    ),
}

# Shows the neighbours of the dot that was clicked beside the chart and as rings in it.
_ON_CLICK = """
const place = document.getElementById("neighbors")
const i = source.selected.indices[0]
if (i === undefined) { rings.data = {x: [], y: []}; place.innerHTML = "<p>Click a dot.</p>"; return }
const d = source.data
const near = []
for (let k = 0; k < count; k++) near.push(neighbors[i * count + k])
rings.data = {x: near.map(j => d.x[j]), y: near.map(j => d.y[j])}
place.replaceChildren()
const show = (j, text, wrong) => {
  const figure = document.createElement("figure")
  const image = document.createElement("div")
  image.className = wrong ? "thumbnail wrong" : "thumbnail"
  image.style.backgroundPosition = `${d.left[j]}px ${d.top[j]}px`
  const caption = document.createElement("figcaption")
  caption.textContent = text
  figure.append(image, caption)
  place.append(figure)
}
show(i, `image ${d.index[i]}: class ${d.name[i]}, its nearest ${one} ${d.predicted[i]}; next to it:`, false)
near.forEach((j, k) => {
  const length = lengths[i * count + k].toFixed(2)
  show(j, `class ${d.name[j]}, distance ${length}`, d.name[j] !== d.name[i])
})
"""


def make_report(
    view: View, pictures: Mapping[str, bytes], scores: Mapping[str, float], params: Mapping[str, object]
) -> str:
    """Returns the report, a page that needs nothing else.

    Args:
        view: What the scatter shows.
        pictures: PNG files by the names that `plots.PICTURES` has.
        scores: Metrics by name.
        params: The parameters of the experiment by name.
    """
    thumbnails = make_thumbnails(view.shown.images, _MAX_SPRITE)
    sprite = make_sprite(thumbnails)
    zoom = _CELL / max(thumbnails.shape[1:3])
    columns = math.ceil(math.sqrt(len(thumbnails)))
    row, column = np.divmod(np.arange(len(thumbnails)), columns)
    cell = [round(side * zoom) for side in (thumbnails.shape[2], thumbnails.shape[1])]
    script, chart = embed.components(_chart(view, left=-column * cell[0], top=-row * cell[1], cell=cell))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")), autoescape=True
    )
    return environment.get_template("report.html").render(
        view=view,
        sprite=base64.b64encode(as_bytes(lambda file: sprite.save(file, "PNG"))).decode(),
        sprite_size=[columns * side for side in cell],
        cell=cell,
        bokeh_resources=Markup(resources.Resources(mode="inline", components=["bokeh"]).render()),
        chart=Markup(chart),
        script=Markup(script),
        pictures=[
            {
                "heading": heading,
                "caption": caption.format(one=view.one_of_gallery),
                "source": Markup(_data_uri(pictures[name])),
            }
            for name, (heading, caption) in _CAPTIONS.items()
            if name in pictures
        ],
        scores={name: f"{value:,.4f}".removesuffix(".0000") for name, value in scores.items()},
        params=params,
    )


def _chart(view: View, left: np.ndarray, top: np.ndarray, cell: list[int]) -> plotting.figure:
    """Builds the scatter; the images are cells of the page's sprite, at `left` and `top`."""
    names = np.array(view.class_names, object)
    predicted = np.where(view.neighbors.nearest >= 0, names[view.predicted], "none")
    source = plotting.ColumnDataSource(
        {
            "x": view.points[:, 0], "y": view.points[:, 1], "index": np.arange(len(view.points)),
            "name": names[view.shown.labels], "predicted": predicted,
            "color": [class_color(label) for label in view.shown.labels], "left": left, "top": top,
        }
    )  # fmt: skip
    tooltip = f"class @name, nearest {view.one_of_gallery} @predicted"
    image = (
        f"<div style='width: {cell[0]}px; height: {cell[1]}px; image-rendering: pixelated; background: var(--sprite) "
        "@{left}px @{top}px / var(--sprite-size)'></div>"
    )
    figure = plotting.figure(
        width=800, height=760, match_aspect=True, tools="pan,wheel_zoom,box_zoom,tap,reset", active_scroll="wheel_zoom",
        toolbar_location="above",
    )  # fmt: skip
    figure.grid.visible = figure.axis.visible = False
    dots: list[Any] = []
    present = np.unique(view.shown.labels)
    for label in present:
        of_class = models.CDSView(
            filter=models.IndexFilter(indices=np.flatnonzero(view.shown.labels == label).tolist())
        )
        dots.append(
            figure.scatter(
                "x", "y", source=source, view=of_class, size=5, color="color", line_color=None, alpha=0.8,
                nonselection_alpha=0.35, selection_line_color="black", legend_label=view.class_names[label],
            )
        )  # fmt: skip
    figure.add_tools(models.HoverTool(renderers=dots, limit=1, tooltips=f"{image}<div>{tooltip}</div>"))
    figure.legend.click_policy = "hide"
    figure.add_layout(figure.legend[0], "right")
    figure.legend.visible = len(present) <= NAMED_CLASSES
    rings = plotting.ColumnDataSource({"x": [], "y": []})
    figure.scatter("x", "y", source=rings, size=13, fill_color=None, line_color="black", line_width=1.5)

    count = min(_NEIGHBORS, len(view.points) - 1)
    lengths = neighbors = np.zeros((len(view.points), 0))
    if count:
        search = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(view.shown.embeddings)
        lengths, neighbors = search.kneighbors()  # of each image without itself
    arguments = {
        "source": source, "rings": rings, "count": count, "one": view.one_of_gallery,
        "neighbors": neighbors.astype(np.int32).ravel(), "lengths": lengths.astype(np.float32).ravel(),
    }  # fmt: skip
    source.selected.js_on_change("indices", models.CustomJS(args=arguments, code=_ON_CLICK))
    return figure


def _data_uri(png: bytes) -> Markup:
    return Markup(f"data:image/png;base64,{base64.b64encode(png).decode()}")
