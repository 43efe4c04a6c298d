"""What was measured, and which measurements belong together.

A run is a `metrics.json`. Runs with the same parameters on the same data, whatever their `seed` and `split_seed`, are
one experiment. A seed that was run twice makes two experiments of them. Where a parameter changed while a run was
trained, its values over time, "0.5 until step 500, then 0.2", are its value: no run with a single one has the same.
"""

import contextlib
import dataclasses
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.common.errors import UserError
from model.params import WITHOUT_EFFECT, Params, translate
from model.scoring.record import Record

# In these parameters the runs of one experiment may differ, and in no others.
_SEEDS = ("seed", "split_seed")


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
        """The parameters that are not at their defaults, without those that nothing reads, and the seeds.

        Of parameters that changed while the run was trained, seeds as well, all values over time, as text.
        """
        params = {key: value for key, value in self.record.params.items() if key not in _SEEDS}
        return params | _values_over_time(self.record.params_history)

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


def value_as_text(value: Any) -> str:
    """Returns the value of a parameter as a table shows it."""
    return value if isinstance(value, str) else json.dumps(value)


def find_runs(folder: Path, file: str = "metrics.json") -> list[Run]:
    """Returns the runs in a folder and below it, by path.

    Args:
        folder: Where to look.
        file: The name of the files with their scores.

    Raises:
        UserError: There is none, or one cannot be read.
    """
    found: list[Path] = []
    seen = set[tuple[int, int]]()
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        # A folder that a training deletes in this moment, such as an old checkpoint, is passed over.
        with contextlib.suppress(FileNotFoundError):
            status = Path(parent).stat()
            if (status.st_dev, status.st_ino) in seen:  # a link has led here before
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            if file in (*folders, *files):
                found.append(Path(parent, file))
    runs = [read_run(path) for path in sorted(found)]
    if not runs:
        raise UserError(f"{folder}: there is no {file} in it or below it; train an experiment first")
    return runs


def read_record(path: Path) -> Record:
    """Reads a file with scores.

    Raises:
        UserError: It cannot be read.
    """
    record = Record.read(path)
    if record is None:
        raise UserError(f"{path}: not the scores of an experiment; delete this file, or evaluate again")
    return record


def read_run(path: Path) -> Run:
    """Reads what was measured, and with which parameters.

    Raises:
        UserError: It cannot be read.
    """
    record = read_record(path)
    if not record.params:  # by an older version
        params = Params.from_json(path.with_name("params.json")).differences()
        record = dataclasses.replace(record, params=params)
    with contextlib.suppress(ValueError):  # edited parameters make an experiment of their own
        record = dataclasses.replace(record, params=translate(record.params))
    return Run(path.parent, record)


def pool_runs(runs: Sequence[Run], folder: Path) -> list[Pool]:
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
    below = Counter(parent for path in {run.folder for run in runs} for parent in (path, *path.parents))
    return [Pool(_name(part, below, folder), part) for group in groups.values() for part in _with_each_seed_once(group)]


def _with_each_seed_once(runs: Sequence[Run]) -> list[list[Run]]:
    """Divides runs, without copies, into lists in which no two have the same seeds."""
    no_copies = {(run.seeds, run.record.digest, run.code): run for run in reversed(runs)}
    different = [run for run in runs if run is no_copies[run.seeds, run.record.digest, run.code]]
    if len({run.seeds for run in different}) == len(different):
        return [different]
    parts: dict[tuple[str, int], list[Run]] = {}
    count: Counter[tuple[str, str]] = Counter()
    for run in different:
        parts.setdefault((run.code, count[run.code, run.seeds]), []).append(run)
        count[run.code, run.seeds] += 1
    return list(parts.values())


def _values_over_time(history: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Returns the parameters that changed, such as {"margin": "0.5 until step 500, then 0.2"}.

    Args:
        history: As `Record.params_history`.
    """
    values: dict[str, str] = {}
    changed = set()
    for entry in history:
        step = entry["from_step"]
        for key in entry["params"].keys() - WITHOUT_EFFECT.keys():
            text = value_as_text(entry["params"][key])
            if step > 0:
                changed.add(key)
                text = f"{values.get(key, '?')} until step {step}, then {text}"
            values[key] = text
    return {key: values[key] for key in sorted(changed)}


def _name(runs: Sequence[Run], below: Mapping[Path, int], root: Path) -> str:
    """Returns the folder in which these runs lie and no others, or else all of theirs, relative to the root.

    Args:
        runs: Those that are to have a name.
        below: Of each folder, in how many there are runs: in itself, and below it.
        root: A folder above all.
    """
    folders = [run.folder for run in runs]
    shared = Path(os.path.commonpath(folders))
    if shared != root and below[shared] == len(set(folders)):
        return shared.relative_to(root).as_posix()
    return ", ".join(
        folder.relative_to(root).as_posix() if folder != root else root.resolve().name for folder in folders
    )
