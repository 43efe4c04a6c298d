"""One HTML file with everything: it opens from the disk, without a network, in light and dark, wide and narrow.

The page is `templates/report.html`, with `report.css` and `report.js`; what stands in it comes from `report_charts.py`,
`report_examples.py` and `page_map.py`, and the tables of numbers from here. Whatever the data, it is smaller than
10 MB: what the map knows has its own limit, there are so many examples at most, and the thumbnails get what is left.
"""

import base64
import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from model.params import Params
from model.pictures import page_map, report_charts, report_examples
from model.pictures.report_charts import Curves
from model.pictures.view import View

# Bytes of the page, and of the picture of all thumbnails, as text.
_MOST_BYTES, _MOST_OF_THUMBNAILS = 9_500_000, 5_000_000


@dataclass(frozen=True)
class About:
    """What the report tells of the experiment, beside the images.

    Attributes:
        params: What it was trained with.
        facts: What it is, as names and text.
        tables: The headline scores, as `Record.tables` has them.
        meanings: What these mean, by name.
        scores: All scores of the test images, by name.
        calibrated_group: Which of them decide about two new images, as `Record.calibrated_group` says.
        note: What there is to say of the scores.
        training: By metric, the values at some steps.
        validation: The same of the validation images.
        best_step: That of the checkpoint that the validation images chose; 0 where they did not.
    """

    params: Params
    facts: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[tuple[str, Sequence[Sequence[str]]]] = ()
    meanings: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    calibrated_group: str | None = None
    note: str = ""
    training: Curves = field(default_factory=dict)
    validation: Curves = field(default_factory=dict)
    best_step: int = 0


def make_report(view: View, about: About) -> str:
    """Returns the report, a page that needs nothing else."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    render = functools.partial(
        environment.get_template("report.html").render,
        view=view,
        about=about,
        class_count=len(np.unique(view.shown.labels)),
        map=page_map.describe(view),
        curves=report_charts.training(about.training, about.validation, view.step, about.best_step),
        verification=report_charts.verification(view, about.scores, about.calibrated_group),
        distances=report_charts.distances(view),
        mistakes=report_examples.mistakes(view),
        retrieval=report_examples.retrieval(view),
        confusion=report_examples.confusion(view),
        classes=report_examples.classes(view),
        unseen=report_examples.unseen_classes(view),
        scores=_table_of_scores(about.scores),
        params=_params(about.params),
    )
    without = render(thumbnails=page_map.NO_THUMBNAILS, sprite="")
    room = min(_MOST_OF_THUMBNAILS, _MOST_BYTES - len(without.encode()))
    thumbnails, sprite = page_map.draw_thumbnails(view, room)
    return render(thumbnails=thumbnails, sprite=base64.b64encode(sprite).decode())


def _table_of_scores(scores: Mapping[str, float]) -> dict[str, Any]:
    """Returns all scores: a line for each, a column for each group of classes, intervals beside their score."""
    groups = ["", *(group for group in ("seen/", "unseen/") if any(name.startswith(group) for name in scores))]
    names = dict.fromkeys(name.removeprefix("seen/").removeprefix("unseen/") for name in scores)
    lines = [name for name in names if not name.endswith(("_low95", "_high95"))]
    return {
        "groups": [group.rstrip("/") or "all" for group in groups],
        "lines": [(name, [_score(scores, group + name) for group in groups]) for name in lines],
    }


def _score(scores: Mapping[str, float], name: str) -> str:
    if name not in scores:
        return ""
    if np.isnan(scores[name]):
        return "not defined"
    text = _number(scores[name])
    low, high = (scores.get(f"{name}_{end}95", np.nan) for end in ("low", "high"))
    return text if np.isnan(low) else f"{text} [{_number(low)}, {_number(high)}]"


def _number(value: float) -> str:
    """Returns a number with four decimals, or with more where these would make a whole number of what is none.

    Example:
        >>> [_number(value) for value in (1.0, 0.5, 0.99997, 0.00003)]
        ['1', '0.5000', '0.99997', '3e-05']
    """
    if value == np.round(value):
        return f"{value:,.0f}"
    if abs(value) < 0.00005:
        return f"{value:.2g}"
    decimals = next(decimals for decimals in itertools.count(4) if round(value, decimals) != np.round(value))
    return f"{value:,.{decimals}f}"


def _params(params: Params) -> dict[str, list[tuple[str, str]]]:
    """Returns the parameters that differ from the defaults, and the others, as `params.json` would have them."""
    different = params.differences()
    others = {name: value for name, value in params.model_dump(mode="json").items() if name not in different}
    return {
        kind: [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in some.items()]
        for kind, some in {"different": different, "others": others}.items()
    }
