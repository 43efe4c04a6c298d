"""`metrics.json`: what was measured, and of which weights."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from model.files import write_whole

Scores = Mapping[str, float]


@dataclass(frozen=True)
class Record:
    """The last evaluation of an experiment.

    Attributes:
        checkpoint: Name of the folder of the checkpoint that was scored.
        digest: Of the tensors in it, as `checkpoints.digest` gives it: another network may have come as far.
        metrics: By name, the scores of the test images; NaN for what they do not define.
        validation: "metric", "best_value" and "best_step" of the evaluations that chose; empty if there were none.
        baselines: By the name of a baseline, its scores.
    """

    checkpoint: str
    digest: str
    metrics: Scores
    validation: Mapping[str, str | float] = field(default_factory=dict)
    baselines: Mapping[str, Scores] = field(default_factory=dict)

    @property
    def is_best(self) -> bool:
        """Whether the validation images chose what was scored."""
        return self.validation.get("best_step") == self.metrics["global_step"]

    def write(self, model_dir: Path) -> None:
        """Writes `metrics.json` as a whole, in JSON proper: null stands for NaN."""
        content = {
            "checkpoint": {"name": self.checkpoint, "digest": self.digest},
            "validation": self.validation,
            "metrics": _finite(self.metrics),
            "baselines": {name: _finite(scores) for name, scores in self.baselines.items()},
        }
        content = {name: value for name, value in content.items() if value}
        write_whole(model_dir / "metrics.json", json.dumps(content, indent=2, allow_nan=False) + "\n")

    @classmethod
    def read(cls, model_dir: Path) -> "Record | None":
        """Reads `metrics.json`; None where there is none that this program wrote."""
        try:
            content = json.loads((model_dir / "metrics.json").read_text(encoding="utf-8"))
            return cls(
                str(content["checkpoint"]["name"]),
                str(content["checkpoint"]["digest"]),
                _numbers(content["metrics"]),
                dict(content.get("validation", {})),
                {name: _numbers(scores) for name, scores in content.get("baselines", {}).items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def _finite(scores: Scores) -> dict[str, float | None]:
    return {name: score if math.isfinite(score) else None for name, score in scores.items()}


def _numbers(scores: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if score is None else float(score) for name, score in scores.items()}
