"""`metrics.json` and `validation.json`: what was measured of the test or validation images, and of which weights.

`Trained.evaluate` in `runner.py` writes the first, `Trained.validate` the second, and `Trained.measure` files of the
same form in `eval/`: what a `Measurement` measured.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from model.common import json_file
from model.common.files import read_bytes, write_whole
from model.common.versions import Provenance
from model.params import part_of_a_run
from model.scoring.scoreboard import Table, meanings, tables, tabulate

# A threshold that one half of the images chose, and how often it is wrong about the other half.
RATES = ("verification_threshold", "false_accept_rate", "false_reject_rate")
# What stands before the names of scores of the classes that were kept out of training.
UNSEEN = "unseen/"

Scores = Mapping[str, float]
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Measurement:
    """What is measured beside the usual evaluation, as `unseen_classes` makes it.

    Attributes:
        name: Of the file in `eval/`, without its suffix.
        title: What the table is about.
        num_images: How many images there are to embed.
        blocks: Returns the images, (n, H, W, C) uint8, some at a time.
        measure: From the embeddings of all images, (N, D), to scores by name.
        tabulate: From scores, and those of baselines by name, to a table.
        about: What else the record says: which images these are, and what decided.
        notes: A line for what was left out, or looks as if somebody should know.
        with_pixels: Whether raw pixels always stand beside the network.
    """

    name: str
    title: str
    num_images: int
    blocks: Callable[[], Iterable[np.ndarray]]
    measure: Callable[[np.ndarray], dict[str, float]]
    tabulate: Callable[[Scores, Mapping[str, Scores]], str]
    about: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    with_pixels: bool = False


@dataclass(frozen=True)
class Record:
    """The last evaluation of an experiment.

    Attributes:
        checkpoint: Name of the folder of the checkpoint that was scored.
        digest: Of the tensors in it, as `Checkpoint.digest` gives it: another network may have come as far.
        metrics: By name, the scores of the images; NaN for what they do not define.
        validation: "metric", "best_value" and "best_step" of the evaluations that chose, as `RunState` has them; empty
            if there were none.
        baselines: By the name of a baseline, its scores.
        params: The parameters that differ from the defaults, and the seed.
        provenance: Code, libraries, hardware and data that the scores come from; None in a file of an older version.
        params_history: Empty, unless the run was resumed under other parameters: then entries {"from_step": int,
            "params": {key: value}}, ascending. That of step 0 holds the first values of the keys that changed later,
            each other one the keys that changed at its step.
        about: Which images a `Measurement` measured, and what decided; empty in the usual evaluation.
    """

    checkpoint: str
    digest: str
    metrics: Scores
    validation: Mapping[str, str | float] = field(default_factory=dict)
    baselines: Mapping[str, Scores] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    provenance: Provenance | None = None
    params_history: Sequence[Mapping[str, Any]] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_best(self) -> bool:
        """Whether the validation images chose what was scored."""
        return self.validation.get("best_step") == self.metrics["global_step"]

    @property
    def calibrated_group(self) -> str | None:
        """What stands before the names of the `RATES` that decide about two new images; None if there are none.

        Those of classes that were kept out of training, where there are some: two new images are of such classes.
        """
        for group in (UNSEEN, ""):
            if all(math.isfinite(self.metrics.get(f"{group}{name}", math.nan)) for name in RATES):
                return group
        return None

    @property
    def table(self) -> str:
        """The first of the scores as text, as `scoreboard.tabulate` lays them out."""
        return tabulate(self.metrics, self.baselines)

    @property
    def tables(self) -> list[Table]:
        """The same as tables, a title and cells each."""
        return tables(self.metrics, self.baselines)

    @property
    def meanings(self) -> dict[str, str]:
        """What the scores in `tables` mean, by name."""
        return meanings(self.tables)

    def write(self, path: Path) -> None:
        """Writes a file as a whole, in JSON proper: null stands for NaN."""
        content = {
            "checkpoint": {"name": self.checkpoint, "digest": self.digest},
            "about": self.about,
            "validation": self.validation,
            "metrics": scores_to_json(self.metrics),
            "baselines": {name: scores_to_json(scores) for name, scores in self.baselines.items()},
            "params": self.params,
            "provenance": self.provenance and dataclasses.asdict(self.provenance),
            "params_history": self.params_history,
        }
        content = {name: value for name, value in content.items() if value}
        write_whole(path, json.dumps(content, indent=2, allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Record | None":
        """Reads a file; None where there is none, or none that `write` can have written, whatever else it holds."""
        try:
            content = json_file.parse(read_bytes(path).decode())
            provenance = content.get("provenance")
            return cls(
                _checked(content["checkpoint"]["name"], str),
                _checked(content["checkpoint"]["digest"], str),
                scores_from_json(content["metrics"]),
                _checked(content.get("validation", {}), dict),
                {name: scores_from_json(scores) for name, scores in content.get("baselines", {}).items()},
                _checked(content.get("params", {}), dict),
                None if provenance is None else Provenance(**_checked(provenance, dict)),
                tuple(part_of_a_run(**part) for part in content.get("params_history", ())),
                _checked(content.get("about", {}), dict),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            return None


def scores_to_json(scores: Scores) -> dict[str, float | None]:
    """Returns scores as JSON can hold them: None stands for NaN and infinity.

    Example:
        >>> scores_to_json({"loss": 0.5, "eer": math.nan})
        {'loss': 0.5, 'eer': None}
    """
    return {name: score if math.isfinite(score) else None for name, score in scores.items()}


def scores_from_json(scores: Mapping[str, object]) -> dict[str, float]:
    """Returns scores that were read from JSON; NaN stands for None and infinity, what is no number is a TypeError.

    Example:
        >>> scores_from_json({"loss": 0.5, "eer": None})
        {'loss': 0.5, 'eer': nan}
    """
    return {name: math.nan if score is None else _number(score) for name, score in scores.items()}


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"Expected a number. Received: {value!r}")
    return float(value) if math.isfinite(value) else math.nan


def _checked(value: object, kind: type[Kind]) -> Kind:
    if not isinstance(value, kind):
        raise TypeError(f"Expected {kind.__name__}. Received: {value!r}")
    return value
