"""`search.json`: which parameters a search varies.

    {"vary": {"learning_rate": [1e-4, 1e-3], "triplet_strategy": ["batch_all", "batch_hard"]}}

is a grid, here of four trials, and

    {"vary": {"learning_rate": {"low": 1e-5, "high": 1e-2, "log": true}, "margin": [0.2, 0.5]}, "num_trials": 20}

asks for twenty, drawn where earlier ones were good. What belongs together varies together, as objects under any name:
`"P x K": [{"num_classes_per_batch": 5, "num_images_per_class": 16, "batch_size": 80}, {...}]`.
"""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from model.common import json_file
from model.params import WITHOUT_EFFECT

# What a trial changes in the params.json of its parent.
Settings = Mapping[str, Any]

Number = Annotated[int | float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]

# With these varied, trials would be measured by other images or metrics, or at other times.
_WHAT_IS_MEASURED = {
    "dataset", "validation_size", "validation_classes", "holdout_classes", "split_seed", "early_stopping_metric",
    "evaluate_every_epochs", "exclude_same_group", "exclude_images", "rotated_classes",
}  # fmt: skip

# Of a grid; each is a training of its own.
_MOST_COMBINATIONS = 10_000

_LONGEST_NAME = 200  # bytes; file systems take 255


class Range(BaseModel):
    """Numbers from `low` to `high`, both included; whole ones if both are written as whole ones."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    low: Number
    high: Number
    log: bool = False

    @model_validator(mode="after")
    def _check(self) -> "Range":
        if self.low >= self.high:
            raise ValueError(f"'low' must be below 'high', received {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"'low' must be above 0 on a logarithmic scale, received {self.low}")
        return self


Choices = Annotated[list[Any], Field(min_length=1)]


class SearchSpace(BaseModel):
    """What a `search.json` says."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    vary: dict[
        str,
        Annotated[
            Annotated[Range, Tag("range")] | Annotated[Choices, Tag("list")],
            Discriminator(lambda values: "range" if isinstance(values, dict | Range) else "list"),
        ],
    ] = Field(min_length=1)
    num_trials: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> "SearchSpace":
        ranges = [key for key, values in self.vary.items() if isinstance(values, Range)]
        if ranges and self.num_trials is None:
            raise ValueError(f"'num_trials' is missing: '{ranges[0]}' is a range, of which trials are drawn")
        combinations = math.prod(len(values) for values in self.vary.values() if isinstance(values, list))
        if self.num_trials is None and combinations > _MOST_COMBINATIONS:
            raise ValueError(
                f"'vary' makes a grid of {combinations:,} trials, at most {_MOST_COMBINATIONS:,} can be; vary less, or "
                "set 'num_trials' to draw some of them"
            )
        owner: dict[str, str] = {}
        for key, values in self.vary.items():
            choices = values if isinstance(values, list) else [None]
            if {} in choices:
                raise ValueError(f"'{key}' has an empty object, received {json.dumps(values)}; name what it sets")
            for name in {name for choice in choices for name in _settings(key, choice)}:
                if name in _WHAT_IS_MEASURED:
                    raise ValueError(
                        f"'{name}' cannot vary: trials that are measured in different ways cannot be compared"
                    )
                if name in WITHOUT_EFFECT:
                    raise ValueError(f"'{name}' cannot vary: it has no effect")
                if name == "squared":
                    raise ValueError("'squared' cannot vary: it is the old name of a distance; vary 'distance' instead")
                if name == "seed":
                    raise ValueError("'seed' cannot vary: --seeds runs every trial with several of them")
                if owner.setdefault(name, key) != key:
                    raise ValueError(f"'{name}' is varied by both '{owner[name]}' and '{key}'; keep one")
        return self

    @classmethod
    def from_json(cls, path: Path) -> "SearchSpace":
        """Reads and checks a `search.json`.

        Raises:
            UserError: It cannot be read, or does not say what to vary.
        """
        return json_file.read(path, cls, if_missing='it says what to vary, such as {"vary": {"margin": [0.2, 0.5]}}')

    @property
    def is_grid(self) -> bool:
        """Whether every combination is tried, and none is drawn."""
        return self.num_trials is None

    @property
    def varied(self) -> set[str]:
        """The parameters that trials differ in."""
        choices = [(key, values if isinstance(values, list) else [None]) for key, values in self.vary.items()]
        return {name for key, values in choices for value in values for name in _settings(key, value)}

    def first_of(self, parameter: str) -> Settings:
        """Returns a parameter with the first value that it has, or the lowest of its range; nothing if it is one."""
        for key, values in self.vary.items():
            first = _settings(key, values[0] if isinstance(values, list) else values.low)
            if parameter in first:
                return {parameter: first[parameter]}
        return {}

    def grid(self) -> list[Settings]:
        """Returns every combination, the last parameter varying fastest; only without ranges."""
        choices = [[_settings(key, value) for value in values] for key, values in self.vary.items()]
        return [_merge(combination) for combination in itertools.product(*choices)]

    def draw(self, trial: Any) -> Settings:
        """Returns a combination that an Optuna trial suggests."""
        return _merge(_settings(key, self._suggest(trial, key, values)) for key, values in self.vary.items())

    def _suggest(self, trial: Any, key: str, values: list[Any] | Range) -> Any:
        if isinstance(values, list):  # as text, because Optuna chooses among numbers and words alone
            return json.loads(trial.suggest_categorical(key, [json.dumps(value) for value in values]))
        if isinstance(values.low, int) and isinstance(values.high, int):
            return trial.suggest_int(key, values.low, values.high, log=values.log)
        return trial.suggest_float(key, values.low, values.high, log=values.log)


def name_of(settings: Settings) -> str:
    """Returns the name of the folder of a trial, such as "learning_rate=0.001,margin=soft"."""
    parts = (f"{key}={_short(value)}" for key, value in settings.items())
    name = re.sub(r"[^\w.,=+-]+", "_", ",".join(parts)).strip("._")
    if len(name.encode()) > _LONGEST_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = name.encode()[: _LONGEST_NAME - 9].decode(errors="ignore") + "," + digest
    return name


def _short(value: Any) -> str:
    if isinstance(value, float):
        return min(repr(value), f"{value:.4g}", key=len)
    if isinstance(value, list):
        return "+".join(map(_short, value))
    return value if isinstance(value, str) else json.dumps(value)


def _settings(key: str, value: Any) -> Settings:
    """Returns what a choice sets: the parameter of that name, or all that an object names."""
    return value if isinstance(value, dict) else {key: value}


def _merge(settings: Iterable[Settings]) -> Settings:
    return {key: value for part in settings for key, value in part.items()}
