"""What became of a run of a search: its folder says so.

`params.json` is there before it starts, `validation.json` when it is finished, `failed` when it broke down, `pruned`
when it was ended early.
"""

import contextlib
from enum import Enum, auto
from pathlib import Path

from model.common.errors import UserError
from model.studies.runs import read_record


class State(Enum):
    """What became of a run."""

    NEW = auto()
    BEGUN = auto()
    FINISHED = auto()
    FAILED = auto()
    PRUNED = auto()


# The first of these files that is there decides.
_FILES = {
    "validation.json": State.FINISHED, "failed": State.FAILED, "pruned": State.PRUNED, "params.json": State.BEGUN,
}  # fmt: skip


def state_of(folder: Path) -> State:
    """Returns what became of a run; NEW if there is no such folder."""
    return next((state for name, state in _FILES.items() if (folder / name).exists()), State.NEW)


def read_value(folder: Path, metric: str) -> float:
    """Returns what a finished run reached.

    Raises:
        UserError: Its `validation.json` does not say.
    """
    path = folder / "validation.json"
    with contextlib.suppress(UserError, KeyError):
        return read_record(path).metrics[metric]
    raise UserError(f"{path}: damaged; delete it, and the search scores this trial again")
