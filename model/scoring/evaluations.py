"""`validation/evaluations.json`: what the evaluations during training measured, for those who watch a run.

The file is a JSON list, ascending by step: `[{"global_step": 70, "knn_accuracy": 0.91, "loss": 0.2}, ...]`.
"""

import json
import math
from pathlib import Path

from model.common import json_file
from model.common.files import read_bytes, write_whole
from model.scoring.record import Scores, scores_from_json, scores_to_json


class Evaluations:
    """The evaluations of a run, and the file that holds them.

    The run that writes them:

        evaluations = Evaluations.read(model_dir / "validation" / "evaluations.json")
        evaluations.forget_after(global_step)  # where training goes on
        ...
        evaluations.append(scores)  # after each evaluation

    Whoever watches it, meanwhile:

        Evaluations.read(model_dir / "validation" / "evaluations.json").values("knn_accuracy")

    Example:
        >>> evaluations = Evaluations(Path("evaluations.json"), {10: {"loss": 0.5}, 20: {"loss": 0.25}, 30: {}})
        >>> evaluations.forget_after(20)
        >>> evaluations.values("loss")
        {10: 0.5, 20: 0.25}
    """

    def __init__(self, path: Path, scores: dict[int, Scores]) -> None:
        self._path = path
        self._scores = scores  # by global step, ascending

    @classmethod
    def read(cls, path: Path) -> "Evaluations":
        """Reads a file; there are no evaluations in one that is missing, damaged or of somebody else."""
        try:
            return cls(path, _parse(read_bytes(path).decode()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            return cls(path, {})

    def values(self, metric: str) -> dict[int, float]:
        """Returns a metric by global step, ascending; NaN where an evaluation has no such number."""
        return {step: scores.get(metric, math.nan) for step, scores in self._scores.items()}

    def forget_after(self, step: int) -> None:
        """Drops the evaluations after this global step; the file keeps them until the next `append`."""
        self._scores = {known: scores for known, scores in self._scores.items() if known <= step}

    def append(self, scores: Scores) -> None:
        """Adds an evaluation, in the place of an earlier one of the same step, and writes the file as a whole.

        Args:
            scores: "global_step", and the metrics by name; NaN and infinity are written as null.
        """
        added = {name: score for name, score in scores.items() if name != "global_step"}
        self._scores = dict(sorted({**self._scores, int(scores["global_step"]): added}.items()))
        content = [{"global_step": step, **scores_to_json(known)} for step, known in self._scores.items()]
        self._path.parent.mkdir(exist_ok=True)  # in the folder of the experiment, which is there or was taken away
        write_whole(self._path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _parse(text: str) -> dict[int, Scores]:
    """Returns the scores by global step; raises what `read` expects of text that `append` did not write."""
    parsed: dict[int, Scores] = {}
    for entry in json_file.parse(text):
        step = entry.pop("global_step")
        if type(step) is not int or step <= max(parsed, default=-1):
            raise ValueError("the steps are no ascending whole numbers")
        parsed[step] = scores_from_json(entry)
    return parsed
