"""Experiments side by side: what differs between them, what they reach over their seeds, and whether one is better.

A run is a `metrics.json`. Runs with the same parameters on the same data, whatever their `seed` and `split_seed`, are
one experiment. A seed that was run twice makes two experiments of them.
"""

import dataclasses
import difflib
import json
import math
import os
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import UserError
from model.params import WITHOUT_EFFECT, Params
from model.protocol import LOW_IS_GOOD
from model.provenance import Provenance
from model.record import Record

# The runs of an experiment differ in nothing else.
_SEEDS = ("seed", "split_seed")

# Columns that compare the metric.
_OF_METRIC = ("difference", "low95", "high95")

# Two values tell nothing: the 95 % interval of their mean is 18 of their standard deviations wide.
_MIN_SEEDS = 3

# A comparison is fair if these are the same.
_SHOULD_BE_EQUAL = {"code": "version of the code", "data": "data", "hardware": "hardware"}

# The column of a table for people that says what an experiment is.
DIFFERENCES = "differs from the defaults in"

# What columns are called where people read them.
_HEADINGS = {
    "train_seconds": "minutes", "images_per_second": "images/s", "low95": "95 % interval", "differs": DIFFERENCES,
}  # fmt: skip

Row = dict[str, Any]  # text, numbers, None


@dataclass(frozen=True)
class Run:
    """What was measured in a folder."""

    folder: Path
    record: Record

    @property
    def seeds(self) -> str:
        """Its seeds, as text."""
        return json.dumps([self.record.params.get(name) for name in _SEEDS])

    @property
    def what(self) -> str:
        """Its parameters without the seeds, as text."""
        return json.dumps(self.differences, sort_keys=True)

    @property
    def differences(self) -> dict[str, Any]:
        """The parameters that are not at their defaults, without the seeds and those that nothing reads."""
        params = {key: value for key, value in self.record.params.items() if key not in {*_SEEDS, *WITHOUT_EFFECT}}
        if params.pop("squared", False):
            params["distance"] = "squared_euclidean"
        return params

    @property
    def data(self) -> str:
        """SHA-256 of the data, "" where it is not known."""
        return self.record.provenance.data_sha256 if self.record.provenance else ""

    @property
    def code(self) -> str:
        """The commit that trained, "" where it is not known."""
        return self.record.provenance.trained_by if self.record.provenance else ""


@dataclass(frozen=True)
class Pool:
    """An experiment: its runs, one for each choice of the seeds, under one name."""

    name: str
    runs: Sequence[Run]

    @property
    def differences(self) -> dict[str, Any]:
        """As those of its runs."""
        return self.runs[0].differences

    def values(self, metric: str) -> dict[str, float]:
        """Returns a metric by seeds, for the runs for which it is defined."""
        values = {run.seeds: run.record.metrics.get(metric, math.nan) for run in self.runs}
        return {seeds: value for seeds, value in values.items() if not math.isnan(value)}


@dataclass(frozen=True)
class Difference:
    """By how much one experiment has more of a metric than another, over the seeds that both were run with.

    Attributes:
        num_pairs: How many seeds these are.
        mean: The mean difference; NaN without pairs.
        low95: The lower end of its 95 % interval by Student's t; NaN with fewer than two pairs, and where all differ
            by the same, of which a spread cannot be estimated.
        high95: The upper end.
        p: Of the two-sided paired t-test; NaN where there is no interval.
    """

    num_pairs: int
    mean: float = math.nan
    low95: float = math.nan
    high95: float = math.nan
    p: float = math.nan


def is_low_good(metric: str) -> bool:
    """Returns whether less of a metric, of an end of its interval, or of a spread, is better."""
    return metric.endswith("_std") or re.sub(r"_(low|high)95$", "", metric.rpartition("/")[-1]) in LOW_IS_GOOD


def find_runs(folder: Path, file: str = "metrics.json") -> list[Run]:
    """Returns the runs in a folder and below it, by path.

    Args:
        folder: Where to look.
        file: The name of the files with their scores.

    Raises:
        UserError: There is none, or one cannot be read.
    """
    runs = [read_run(path) for path in sorted(folder.rglob(file))]
    if not runs:
        raise UserError(f"{folder}: there is no {file} in it or below it; train an experiment first")
    return runs


def read_run(path: Path) -> Run:
    """Reads a file with scores.

    Raises:
        UserError: It cannot be read.
    """
    record = Record.read(path)
    if record is None:
        raise UserError(f"{path}: not the scores of an experiment; delete this file, or evaluate again")
    if not record.params:  # by an older version
        params = Params.from_json(path.with_name("params.json")).differences()
        record = dataclasses.replace(record, params=params)
    return Run(path.parent, record)


def pool(runs: Sequence[Run], folder: Path) -> list[Pool]:
    """Returns the experiments that runs belong to, by the first run of each.

    A copy of a run, of the same weights with the same seeds, tells no more than the run. Where seeds were run twice
    there are two experiments, if possible one for each version of the code. Where it is not known what data a run had,
    it had those of the others with its parameters, unless these differ.

    Args:
        runs: As `find_runs` returns them.
        folder: What the names of the experiments are relative to.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    known: dict[str, set[str]] = {}
    for run in runs:
        known.setdefault(run.what, set()).update({run.data} - {""})
    for run in runs:
        data = run.data or "".join(known[run.what] if len(known[run.what]) == 1 else ())
        groups.setdefault((run.what, data), []).append(run)
    return [Pool(_name(part, runs, folder), part) for group in groups.values() for part in _with_each_seed_once(group)]


def _with_each_seed_once(runs: Sequence[Run]) -> list[list[Run]]:
    """Divides runs, without copies, into lists in which no two have the same seeds."""
    no_copies = {(run.seeds, run.record.digest): run for run in reversed(runs)}
    different = [run for run in runs if run is no_copies[run.seeds, run.record.digest]]
    if len({run.seeds for run in different}) == len(different):
        return [different]
    parts: dict[tuple[str, int], list[Run]] = {}
    count: Counter[tuple[str, str]] = Counter()
    for run in different:
        parts.setdefault((run.code, count[run.code, run.seeds]), []).append(run)
        count[run.code, run.seeds] += 1
    return list(parts.values())


def compare(this: Pool, other: Pool, metric: str) -> Difference:
    """Compares two experiments in a metric, seed by seed.

    References:
        Student (W. S. Gosset): The Probable Error of a Mean, 1908.
    """
    values, others = this.values(metric), other.values(metric)
    differences = [value - others[seeds] for seeds, value in values.items() if seeds in others]
    if len(differences) < 2:
        return Difference(len(differences), *differences)
    return Difference(len(differences), *_student(differences))


def interval(pool: Pool, metric: str) -> tuple[float, float]:
    """Returns the 95 % interval of a metric's mean: over seeds by Student's t, of one run over its images.

    NaN where there are two seeds, where all have the same value, or where the metric of a single run has no interval.
    """
    values = pool.values(metric)
    if len(values) >= _MIN_SEEDS:
        _, low, high, _ = _student(list(values.values()))
        return low, high
    for run in pool.runs:
        if len(values) == 1 and run.seeds in values:
            scores = run.record.metrics
            return scores.get(f"{metric}_low95", math.nan), scores.get(f"{metric}_high95", math.nan)
    return math.nan, math.nan


def tabulate(pools: Sequence[Pool], metrics: Sequence[str], against: Pool | None = None) -> list[Row]:
    """Returns a row for each experiment, all with the same columns; None stands for what is not known.

    Args:
        pools: The experiments.
        metrics: Each has a column for its mean over the seeds and one, `<metric>_std`, for the standard deviation.
        against: What all others are compared with, in the first metric.

    Raises:
        UserError: No run has such a metric.
    """
    known = sorted({name for pool in pools for run in pool.runs for name in run.record.metrics})
    for metric in metrics:
        if metric not in known:
            close = difflib.get_close_matches(metric, known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(known)}"
            raise UserError(f"no run has a metric '{metric}'; {hint}")
    return [_row(pool, metrics, against) for pool in pools]


def sort(rows: Sequence[Row], column: str, metric: str, reverse: bool = False) -> list[Row]:
    """Returns rows with the best first: text by the alphabet, numbers from the side that is good; None at the end.

    Args:
        rows: As `tabulate` returns them.
        column: By what.
        metric: In which experiments were compared.
        reverse: Whether the best shall be the last.

    Raises:
        UserError: There is no such column.
    """
    column = next((name for name, heading in _HEADINGS.items() if heading == column), column)
    if column not in rows[0]:
        raise UserError(f"no column '{column}' to sort by; there are {', '.join(rows[0])}")
    known = [row for row in rows if row[column] is not None]
    is_text = any(isinstance(row[column], str) for row in known)
    ascending = is_text or column in ("train_seconds", "p") or is_low_good(metric if column in _OF_METRIC else column)
    return [
        *sorted(known, key=lambda row: row[column], reverse=ascending == reverse),
        *(row for row in rows if row[column] is None),
    ]


def describe(
    pools: Sequence[Pool], rows: Sequence[Row], metrics: Sequence[str]
) -> tuple[list[dict[str, str]], list[str]]:
    """Returns rows as a person reads them, and notes that belong to them.

    Mean and standard deviation are one column; the last one is `DIFFERENCES`. What is the same in all experiments
    stands in a note; so does what makes a comparison unfair.

    Args:
        pools: The experiments of the rows, in any order.
        rows: As `tabulate` returns them.
        metrics: As for `tabulate`.
    """
    first, *others = (pool.differences for pool in pools)
    shared = {
        key: value
        for key, value in first.items()
        if others and all(key in other and other[key] == value for other in others)
    }
    differences = {
        pool.name: {key: value for key, value in pool.differences.items() if key not in shared} for pool in pools
    }
    notes = [f"In all of them: {_list(shared)}."] if shared else []
    described = []
    for row in rows:
        cells = {"experiment": row["experiment"], "seeds": str(row["seeds"])}
        for metric in metrics:
            cells[metric] = _number(row[metric], ".4f")
            if row[f"{metric}_std"] is not None:
                cells[metric] += f" ± {row[f'{metric}_std']:.4f}"
        if "verdict" in row:
            cells["difference"] = _number(row["difference"], "+.4f")
            cells[_HEADINGS["low95"]] = "" if row["low95"] is None else f"{row['low95']:+.4f} to {row['high95']:+.4f}"
            cells["p"] = _number(row["p"], ".2g")
            cells["verdict"] = row["verdict"]
        cells[_HEADINGS["train_seconds"]] = _number(row["train_seconds"], ".1f", 1 / 60)
        cells[_HEADINGS["images_per_second"]] = _number(row["images_per_second"], ",.0f")
        described.append(cells | {DIFFERENCES: _list(differences[row["experiment"]])})
    for name, what in _SHOULD_BE_EQUAL.items():
        found: dict[str, list[str]] = {}
        for row in rows:
            found.setdefault(row[name], []).append(row["experiment"])
        if len(found) > 1 or " / " in next(iter(found)):
            each = "; ".join(f"{value} of {', '.join(experiments)}" for value, experiments in found.items())
            notes.append(f"Not all runs have the same {what}: {each}.")
    return described, notes


def _number(value: Any, form: str, scale: float = 1) -> str:
    return "" if value is None else format(value * scale, form)


def _student(values: Sequence[float]) -> tuple[float, float, float, float]:
    """Returns the mean of at least two values, the ends of its 95 % interval, and p of a mean of 0.

    NaN instead of the last three if the values are equal, up to rounding.
    """
    from scipy import stats

    mean, error = statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))
    if error < 1e-12:
        return mean, math.nan, math.nan, math.nan
    student = stats.t(len(values) - 1)
    half = float(student.ppf(0.975)) * error
    return mean, mean - half, mean + half, float(2 * student.sf(abs(mean) / error))


def _row(pool: Pool, metrics: Sequence[str], against: Pool | None) -> Row:
    row: Row = {"experiment": pool.name, "seeds": len(pool.runs)}
    row["differs"] = _list(pool.differences)
    for metric in metrics:
        values = list(pool.values(metric).values())
        row[metric] = statistics.mean(values) if values else None
        row[f"{metric}_std"] = statistics.stdev(values) if len(values) > 1 else None
    made = [run.record.provenance for run in pool.runs]
    provenances = [provenance for provenance in made if provenance]
    for cost in ("train_seconds", "images_per_second"):
        costs = [value for provenance in provenances if (value := getattr(provenance, cost)) is not None]
        row[cost] = statistics.median(costs) if costs else None
    row["hardware"] = _all_of([provenance.hardware if provenance else "?" for provenance in made])
    row["code"] = _all_of([code for provenance in made for code in _codes(provenance)])
    row["data"] = _all_of([run.data[:7] or "?" for run in pool.runs])
    if against is not None:
        row |= _judge(pool, against, metrics[0])
    return row


def _judge(pool: Pool, against: Pool, metric: str) -> Row:
    nothing = dict.fromkeys(("difference", "low95", "high95", "p"))
    if pool is against:
        return nothing | {"verdict": "what the others are compared with"}
    if len({run.data for run in (*pool.runs, *against.runs)} - {""}) > 1:
        return nothing | {"verdict": "other data: not comparable"}
    difference = compare(pool, against, metric)
    if difference.num_pairs < _MIN_SEEDS:
        verdict = f"too few to tell: {difference.num_pairs} seed{'s' * (difference.num_pairs != 1)} in common"
    elif math.isnan(difference.p):
        verdict = f"no spread to judge by: the same difference with all {difference.num_pairs} seeds"
    elif difference.low95 <= 0 <= difference.high95:
        verdict = f"not told apart by {difference.num_pairs} seeds"
    else:
        verdict = "better" if (difference.mean > 0) != is_low_good(metric) else "worse"
    numbers = dataclasses.asdict(difference)
    known = {name: None if math.isnan(value) else value for name, value in numbers.items()}
    return {
        "difference": known["mean"],
        "low95": known["low95"],
        "high95": known["high95"],
        "p": known["p"],
        "verdict": verdict,
    }


def _name(runs: Sequence[Run], all_runs: Sequence[Run], root: Path) -> str:
    """Returns the folder in which these runs lie and no others, or else all of theirs, relative to the root."""
    folders = [run.folder for run in runs]
    shared = Path(os.path.commonpath(folders))
    others = {run.folder for run in all_runs} - set(folders)
    if shared != root and not any(folder.is_relative_to(shared) for folder in others):
        return shared.relative_to(root).as_posix()
    return ", ".join(
        folder.relative_to(root).as_posix() if folder != root else root.resolve().name for folder in folders
    )


def _list(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value if isinstance(value, str) else json.dumps(value)}" for key, value in params.items())


def _codes(provenance: Provenance | None) -> list[str]:
    """Returns the commits that trained and evaluated, in short; "?" where they are not known."""
    versions = (provenance.trained_by, provenance.evaluated_by) if provenance else ("",)
    return [version[:7] + "+" * version.endswith("+changes") or "?" for version in versions]


def _all_of(values: Sequence[str]) -> str:
    return " / ".join(dict.fromkeys(values))
