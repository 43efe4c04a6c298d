"""What a search tries, and where it comes from: a grid, or the draws of `drawn_trials.py`."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from model.studies.search_space import SearchSpace, Settings, name_of

# Where a search keeps what was drawn.
DATABASE = "search.db"


@dataclass(frozen=True)
class Trial:
    """A combination of parameters that is tried.

    Attributes:
        folder: Its folder, inside that of the search.
        settings: What it changes in the parameters of the search.
        number: By which Optuna knows it; -1 in a grid, which knows nothing of Optuna.
    """

    folder: Path
    settings: Settings
    number: int = -1


class Source(Protocol):
    """Where trials come from."""

    def trials(self) -> list[Trial]:
        """Returns all that there are so far."""

    def ask(self) -> Trial | None:
        """Returns the next one to try; None when there is none."""

    def should_prune(self, trial: Trial, number: int, value: float) -> bool:
        """Returns whether a trial shall be ended early for what its evaluation of this number, from 1, came to."""

    def tell(self, trial: Trial, value: float | None, is_pruned: bool = False) -> None:
        """Takes what became of a trial; None if it broke down or was ended early."""

    def close(self) -> None:
        """Lets go of what it holds."""


class Grid:
    """Every combination once, in the order in which `search.json` lists them."""

    def __init__(self, parent: Path, space: SearchSpace) -> None:
        self._trials: list[Trial] = []
        names = set[str]()
        for number, settings in enumerate(space.grid()):
            folder = folder_of(parent, settings, number, names)
            names.add(folder.name)
            self._trials.append(Trial(folder, settings))
        self._to_come = iter(self._trials)

    def trials(self) -> list[Trial]:
        """Returns all of them."""
        return self._trials

    def ask(self) -> Trial | None:
        """Returns the next one; None after the last."""
        return next(self._to_come, None)

    def should_prune(self, trial: Trial, number: int, value: float) -> bool:
        """Returns no: every combination is tried to its end."""
        return False

    def tell(self, trial: Trial, value: float | None, is_pruned: bool = False) -> None:
        """Does nothing: the folder says what became of it."""

    def close(self) -> None:
        """Does nothing."""


def folder_of(parent: Path, settings: Settings, number: int, taken: Collection[str]) -> Path:
    """Returns a folder for a trial, of no name that is taken: those of different trials may be equal, as they round."""
    name = name_of(settings)
    if name in taken:
        name += f",trial={number}"
    return parent / name
