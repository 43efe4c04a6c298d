"""Experiments side by side: what differs between them, what they reach over their seeds, and whether one is better."""

import dataclasses
import difflib
import math
import re
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.common.errors import UserError
from model.common.text import printable
from model.common.versions import Provenance
from model.scoring.protocol import HEADLINES, LOW_IS_GOOD
from model.studies import table
from model.studies.runs import Pool, find_runs, pool_runs, value_as_text

# What is compared where nobody asks for something else.
DEFAULT_METRICS = tuple(HEADLINES)

# How `show` can write a table.
FORMATS = ("terminal", "markdown", "csv", "json")

# Columns in units of the metric by which experiments are compared: more is better or worse as it is of that metric.
_OF_METRIC = ("difference", "low95", "high95")

# Of all comparisons of a table together, the chance of calling one better or worse that is neither.
_LEVEL = 0.05

# Seeds that an interval needs: of two values, the 95 % interval of the mean is 18 standard deviations wide.
_MIN_SEEDS = 3

# A comparison is fair if these are the same.
_SHOULD_BE_EQUAL = {"code": "version of the code", "data": "data", "hardware": "hardware"}

# The column, in a table for people, of the parameters of an experiment.
DIFFERENCES = "differs from the defaults in"

# Names of columns in a table for people, where they are not those in the rows.
_HEADINGS = {
    "train_seconds": "minutes", "images_per_second": "images/s", "low95": "95 % interval", "p_holm": "p, Holm",
    "differs": DIFFERENCES,
}  # fmt: skip

Row = dict[str, Any]  # text, numbers, None


@dataclass(frozen=True)
class Difference:
    """By how much one experiment has more of a metric than another, over the seeds that both were run with.

    Attributes:
        num_pairs: How many seeds these are.
        mean: The mean difference; NaN without pairs.
        low95: The lower end of its 95 % interval by Student's t; NaN with fewer than two pairs, and where all differ
            by the same, of which a spread cannot be estimated.
        high95: The upper end.
        p: Of the two-sided paired t-test by itself; NaN where there is no interval.
    """

    num_pairs: int
    mean: float = math.nan
    low95: float = math.nan
    high95: float = math.nan
    p: float = math.nan


def is_low_good(metric: str) -> bool:
    """Returns whether less of a metric, of an end of its interval, or of a spread, is better."""
    return metric.endswith("_std") or re.sub(r"_(low|high)95$", "", metric.rpartition("/")[-1]) in LOW_IS_GOOD


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


def find_pools(folder: Path, file: str) -> list[Pool]:
    """Returns the experiments in a folder and below it.

    Args:
        folder: Where to look.
        file: The name of the files with their scores.

    Raises:
        UserError: There is none, or one cannot be read.
    """
    return pool_runs(find_runs(folder, file), folder)


def choose(pools: Sequence[Pool], folder: Path, name: str) -> Pool:
    """Returns the experiment of this name, or with a run in the folder of this name.

    Raises:
        UserError: There is none.
    """
    for pool in pools:
        if pool.name == name or any(run.folder == folder / name for run in pool.runs):
            return pool
    known = ", ".join(pool.name for pool in pools)
    raise UserError(f"--against {name}: no such experiment; there are {known}")


def tabulate(pools: Sequence[Pool], metrics: Sequence[str], against: Pool | None = None) -> list[Row]:
    """Returns a row for each experiment, all with the same columns; None stands for what is not known.

    Args:
        pools: The experiments.
        metrics: Each has a column for its mean over the seeds and one, `<metric>_std`, for the standard deviation.
        against: What all others are compared with, in the first metric, each by a paired t-test; `p_holm` and the
            verdict allow for there being several.

    Raises:
        UserError: No run has such a metric.
    """
    known = sorted({name for pool in pools for run in pool.runs for name in run.record.metrics})
    for metric in metrics:
        if metric not in known:
            close = difflib.get_close_matches(metric, known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(known)}"
            raise UserError(f"no run has a metric '{metric}'; {hint}")
    rows = [_row(pool, metrics, against) for pool in pools]
    tested = [row for row in rows if row.get("p") is not None]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = p
        if p < _LEVEL:
            row["verdict"] = "better" if (row["difference"] > 0) != is_low_good(metrics[0]) else "worse"
    return rows


def holm(values: Sequence[float]) -> list[float]:
    """Returns p values of several tests, each raised so that all of them together are at most as often wrong.

    Where all hypotheses hold, the smallest of these is below 0.05 in at most 5 % of the cases, and so on for those that
    hold among others that do not.

    References:
        Holm: A Simple Sequentially Rejective Multiple Test Procedure, 1979.
    """
    raised, highest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        raised[index] = highest
    return raised


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
    ascending = (
        is_text or column in ("train_seconds", "p", "p_holm") or is_low_good(metric if column in _OF_METRIC else column)
    )
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
            cells["p"], cells["p, Holm"] = _number(row["p"], ".2g"), _number(row["p_holm"], ".2g")
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


def show(
    pools: Sequence[Pool], rows: Sequence[Row], metrics: Sequence[str], form: str = "terminal", differences: bool = True
) -> str:
    """Returns rows as text that ends with a line break.

    Args:
        pools: The experiments of the rows, in any order.
        rows: As `tabulate` and `sort` return them.
        metrics: As for `tabulate`.
        form: One of `FORMATS`. "csv" and "json" are for programs: numbers are not rounded, and there are no notes.
        differences: Whether to say, in the terminal, what each experiment differs in from the defaults.
    """
    if form == "csv":
        return table.to_csv(rows)
    if form == "json":
        return table.to_json(rows)
    described, notes = describe(pools, rows, metrics)
    if form == "markdown":
        return "\n".join([table.to_markdown(described), *(f"{printable(note)}\n" for note in notes)])
    of_each = [(row["experiment"], row.pop(DIFFERENCES)) for row in described]
    lines = [f"{name} differs from the defaults in {what}." for name, what in of_each if what and differences]
    drawn = table.to_terminal(described, shutil.get_terminal_size().columns)
    return "\n".join([drawn, *(printable(line) for line in (*lines, *notes))]) + "\n"


def describe_best(pools: Sequence[Pool], rows: Sequence[Row], metric: str) -> str:
    """Returns the experiment of the first row, what it reached in a metric, and the interval of that, as a line."""
    best = next(pool for pool in pools if pool.name == rows[0]["experiment"])
    low, high = interval(best, metric)
    between = "too few seeds for an interval" if math.isnan(low) else f"95 % interval {low:.4f} to {high:.4f}"
    return f"Best: {printable(best.name)}, {metric} {rows[0][metric]:.4f}, {between}."


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
    nothing = dict.fromkeys(("difference", "low95", "high95", "p", "p_holm"))
    if pool is against:
        return nothing | {"verdict": "what the others are compared with"}
    if len({run.data for run in (*pool.runs, *against.runs)} - {""}) > 1:
        return nothing | {"verdict": "other data: not comparable"}
    difference = compare(pool, against, metric)
    if difference.num_pairs < _MIN_SEEDS:
        difference = Difference(difference.num_pairs, difference.mean)
        verdict = f"too few to tell: {difference.num_pairs} seed{'s' * (difference.num_pairs != 1)} in common"
    elif math.isnan(difference.p):
        verdict = f"no spread to judge by: the same difference with all {difference.num_pairs} seeds"
    else:  # unless p says otherwise, raised for all comparisons
        verdict = f"not told apart by {difference.num_pairs} seeds"
    numbers = dataclasses.asdict(difference)
    known = {name: None if math.isnan(value) else value for name, value in numbers.items()}
    return {
        "difference": known["mean"],
        "low95": known["low95"],
        "high95": known["high95"],
        "p": known["p"],
        "p_holm": None,
        "verdict": verdict,
    }


def _list(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value_as_text(value)}" for key, value in params.items())


def _codes(provenance: Provenance | None) -> list[str]:
    """Returns the commits that trained and evaluated, in short; "?" where they are not known."""
    versions = (provenance.trained_by, provenance.evaluated_by) if provenance else ("",)
    return [version[:7] + "+" * version.endswith("+changes") or "?" for version in versions]


def _all_of(values: Sequence[str]) -> str:
    return " / ".join(dict.fromkeys(values))
