"""Says after a step whether a run may go on: steps that broke down, and what the doctor finds.

NaN that only shows later is refused where it shows: in weights by `Learner.save`, in embeddings and in the watched
metric by `evaluation.py`.
"""

from typing import Any, NamedTuple

import numpy as np

from model.params import Params
from model.training.doctor import Batch, Doctor, Finding

# Steps in a row that break down before nothing better is expected of the next one.
_HOPELESS = 50


class Broken(NamedTuple):
    """What a step reports: whether the loss, the gradient or a weight was not finite, integer scalars, 0 or 1."""

    loss: Any
    gradient: Any
    weights: Any  # after the step


_NAMES = Broken("the loss", "the gradient", "a weight")


class Guard:
    """Watches over a run.

    Args:
        params: The experiment: what ends a run, and what there is to change.
    """

    def __init__(self, params: Params) -> None:
        self._params = params
        self._doctor = Doctor(params)
        self._noted: list[tuple[int, Broken]] = []
        self._in_a_row = 0
        self.broken_steps = 0  # of all that `breakdowns` has looked at

    def note(self, step: int, broken: Broken) -> None:
        """Takes what steps say of themselves, without waiting for it.

        Args:
            step: The first of them.
            broken: Of one step, or arrays, an entry for each.
        """
        self._noted.append((step, broken))

    def begin(self, batch: Batch) -> None:
        """Takes the first batch, of a network that nothing has spoilt yet: what later ones are measured by."""
        self._doctor.begin(batch)

    def breakdowns(self) -> list[Finding]:
        """Looks at the steps noted since the last time; returns what has to be told of them, at most one finding.

        Where such steps are skipped (`on_nan`), the first of them is told. Even then the run ends once a weight is
        broken, or after 50 broken steps in a row.
        """
        noted = [
            (first + i, Broken(*flags.tolist()))
            for first, broken in self._noted
            for i, flags in enumerate(np.stack([np.atleast_1d(flag) for flag in broken], axis=1) > 0)
        ]
        self._noted = []
        was_told, is_final = self.broken_steps > 0, False
        for _, flags in noted:
            self._in_a_row = self._in_a_row + 1 if any(flags) else 0
            is_final |= flags.weights or self._in_a_row >= _HOPELESS
        broken = [(step, flags) for step, flags in noted if any(flags)]
        self.broken_steps += len(broken)
        is_fatal = is_final or self._params.on_nan == "stop"
        if not broken or (was_told and not is_fatal):
            return []
        step, flags = broken[0]
        what = _NAMES[flags.index(True)]
        more = f" and {len(broken) - 1} of the next {noted[-1][0] - step}" if len(broken) > 1 else ""
        message = (
            f"{what} is NaN or infinite at step {step}{more}; lower learning_rate ({self._params.learning_rate:g})"
        )
        return [Finding("nan", message, is_fatal)]

    def examine(self, batch: Batch) -> list[Finding]:
        """Returns what the doctor finds in a batch."""
        return self._doctor.examine(batch)

    def conclude(self) -> list[Finding]:
        """Returns what the doctor has to say at the end of the run."""
        return self._doctor.conclude()
