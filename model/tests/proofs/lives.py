"""Commands that are started to be killed or stopped, and what a folder holds when that is over."""

import contextlib
import itertools
import json
import os
import random
import re
import secrets
import signal
import subprocess
import sys
import time
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from model.common.commands import ROOT
from model.tests.proofs.cases import without_seconds
from model.training import checkpoints

# Everything that has a state: batch normalization, a schedule, augmentation, the order of the images, the best metric.
EXPERIMENT = {
    "use_batch_norm": True, "augmentation": "affine", "learning_rate_schedule": "cosine", "warmup_steps": 50,
    "early_stopping_patience": 1000, "evaluate_every_epochs": 5, "save_checkpoints_steps": 23, "num_channels": 8,
    "validation_size": 0.2, "keep_checkpoint_max": 2, "num_epochs": 30,
}  # fmt: skip

# How many runs at once: more make a busy machine busier, and a proof shorter where there are more cores.
AT_ONCE = int(os.environ.get("LIVES", "2"))

# A child that is asked to stop does so after its step, and the first one is compiled, beside others of its kind.
_SECONDS_FOR_CHILDREN = 30.0
_LONGEST_LIFE = 1800.0
_MARK = "PROOF_LIFE"


class Life:
    """A process that runs a command, from its start on.

    Args:
        script: Name of a command line, such as "train.py".
        arguments: Its options.
        folder: Where it is started; None starts it in the current folder.
        before: What is put before the command, such as another command that starts it.
        piped: "stdout" or "stderr" if that goes into a pipe, whose reader is `process.stdout` or `process.stderr`.
    """

    def __init__(
        self,
        script: str,
        arguments: Sequence[object],
        folder: Path | None = None,
        before: Sequence[str] = (),
        piped: str | None = None,
    ) -> None:
        self.began, self._started, self._used = time.time(), time.monotonic(), 0.0
        self._mark = secrets.token_hex(8)
        self._said = {stream: os.memfd_create(stream) for stream in ("stdout", "stderr")}  # files on no disk
        for descriptor in self._said.values():
            weakref.finalize(self, os.close, descriptor)
        self.process = subprocess.Popen(
            [*before, sys.executable, str(ROOT / script), *map(str, arguments)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            **self._said | ({piped: subprocess.PIPE} if piped else {}),
            process_group=0,
            env={**os.environ, _MARK: self._mark},
        )

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._started

    @property
    def used(self) -> float:
        """Seconds of processor time: where it is in its life, however busy the machine is with other things."""
        with contextlib.suppress(OSError):  # it has ended
            after_name = Path("/proc", str(self.process.pid), "stat").read_text().rpartition(")")[2].split()
            self._used = (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")
        return self._used

    @property
    def stdout(self) -> str:
        """What it printed."""
        return self._read("stdout")

    @property
    def stderr(self) -> str:
        """What it said on stderr."""
        return self._read("stderr")

    def _read(self, stream: str) -> str:
        """Returns what was written so far; where the process writes is not changed by that."""
        descriptor = self._said[stream]
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode()

    def is_running(self) -> bool:
        """Whether it has not ended yet; a process that hangs is a failure."""
        assert self.age < _LONGEST_LIFE, f"{self.process.args} does not end: {self.stderr}"
        return self.process.poll() is None

    def sleep(self, until: Callable[[], bool], seconds: float = 0.01) -> None:
        """Waits until something is the case, or the process has ended; looks each time after so many seconds."""
        while self.is_running() and not until():
            time.sleep(seconds)

    def kill(self, of_group: bool = False) -> bool:
        """Sends SIGKILL to it, or to its process group; returns False if it had ended before, as it should."""
        if of_group and self.process.poll() is None:  # the group is there as long as its leader was not waited for
            os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()
        code = self.process.wait()
        assert code in (0, -signal.SIGKILL), f"exit code {code}: {self.stderr}"
        return code != 0

    def wait(self) -> int:
        """Returns its exit code; negative, as of `subprocess`, where a signal ended it."""
        self.sleep(lambda: False)
        return self.process.wait()

    def end(self) -> tuple[int, str, str]:
        """Waits for its end; returns its exit code, stdout and stderr, in which there is no traceback."""
        code, said = self.wait(), self.stderr
        assert not re.search(r"Traceback|^\w*(Error|Exception)\b", said, re.MULTILINE), said
        return code, self.stdout, said

    def children_left(self) -> list[int]:
        """Returns the processes that it started, and that still run half a minute later."""
        deadline = time.monotonic() + _SECONDS_FOR_CHILDREN
        while (left := _processes_with(f"{_MARK}={self._mark}")) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left


Wait: TypeAlias = Callable[[Life], None]


def _processes_with(variable: str) -> list[int]:
    """Returns the processes in whose environment a variable has this value: children and theirs inherit it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if variable.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


def run(script: str, *arguments: object, folder: Path | None = None) -> tuple[int, str, str]:
    """Runs a command to its end; returns its exit code, stdout and stderr."""
    return Life(script, arguments, folder).end()


def complete(script: str, *arguments: object, folder: Path | None = None) -> str:
    """Runs a command, which goes well, and returns what it printed."""
    code, printed, said = run(script, *arguments, folder=folder)
    assert code == 0, said
    return printed


def age_leftovers(folder: Path) -> None:
    """Lets a day pass for what killed processes left behind, after which it is deleted by the next who writes there."""
    for path in folder.rglob("tmp-*"):
        os.utime(path, (time.time() - 2 * 24 * 3600,) * 2)


def newest_step(model_dir: Path) -> int:
    """Returns the step of the newest checkpoint, 0 where there is none."""
    paths = checkpoints.list_checkpoints(model_dir)
    return checkpoints.step_of(paths[-1]) if paths else 0


def contents(folder: Path) -> dict[str, object]:
    """Returns all that a folder holds but the times: in logs, in names of event files, and how long a training took.

    Tensors, curves and pictures are bytes, so that equal means equal bit for bit.
    """
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or path.suffix == ".log" or path.name in (".lock", ".search.lock"):
            continue
        if path.name.startswith("events.out"):
            events = found.setdefault(str(path.parent.relative_to(folder) / "events"), Counter())
            events.update(_events(path))
        elif path.parent.parent.name == "checkpoints":
            if path.name == "tensors.index":
                tensors = checkpoints.load(path.parent).tensors.items()
                found[str(Path(name).parent)] = {key: value.tobytes() for key, value in tensors if "timed" not in key}
        elif path.name in ("metrics.json", "validation.json"):
            found[name] = _without_times(json.loads(path.read_text()))
        elif path.suffix in (".npz", ".npy"):
            found[name] = _arrays(path)
        elif path.suffix == ".html":
            found[name] = without_seconds(path)
        else:
            found[name] = path.read_bytes()
    return found


def differences(folder: Path, expected: Path) -> list[str]:
    """Returns the names of what two folders do not hold alike, and what of it, to find the reason by."""
    ours, theirs = contents(folder), contents(expected)
    told = [f"{name}: only in {folder if name in ours else expected}" for name in sorted(ours.keys() ^ theirs.keys())]
    for name in sorted(ours.keys() & theirs.keys()):
        one, other = ours[name], theirs[name]
        if one != other and isinstance(one, dict) and isinstance(other, dict):
            keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
            told.append(f"{name}: {len(keys)} differ: {[str(key)[:200] for key in keys[:5]]}")
        elif one != other:
            told.append(f"{name}: differs")
    return told


def _events(path: Path) -> list[tuple[str, int, bytes]]:
    """Returns tag, step and value of each entry; without the rate, and of what HParams shows only that it is there."""
    found = []
    for event in EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            has_times = value.metadata.plugin_data.plugin_name == "hparams"
            if not value.tag.endswith("_per_second"):  # a process has none at its very first step
                found.append((value.tag, event.step, b"" if has_times else value.tensor.SerializeToString()))
    return found


def _without_times(record: dict) -> dict:
    provenance = dict(record["provenance"])
    assert provenance.pop("train_seconds") >= 0 and provenance.pop("images_per_second") > 0
    return {**record, "provenance": provenance}


def _arrays(path: Path) -> dict[str, tuple]:
    with path.open("rb") as file:
        loaded = np.load(file)
        arrays = {"": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
        return {name: (str(array.dtype), array.shape, array.tobytes()) for name, array in arrays.items()}


@dataclass(frozen=True)
class Untouched:
    """A training that nobody touched, and how long its parts took, in seconds of processor time.

    Attributes:
        folder: The experiment.
        start: From the start to the first checkpoint.
        training: From there to the last checkpoint.
        end: From there to the end of the process.
        saved: By step, what the process had used when that checkpoint appeared.
    """

    folder: Path
    start: float
    training: float
    end: float
    saved: dict[int, float]

    @property
    def length(self) -> float:
        """From the start of the process to its end."""
        return self.start + self.training + self.end

    @property
    def last_step(self) -> int:
        """The step at which it ends."""
        return max(self.saved)

    @classmethod
    def train(cls, folder: Path) -> "Untouched":
        """Trains the experiment of a folder in peace."""
        life, saved = Life("train.py", ["--model_dir", folder.name], folder.parent), {}
        while life.is_running():
            saved.setdefault(newest_step(folder), life.used)
            time.sleep(0.01)
        assert life.wait() == 0, life.stderr
        saved.pop(0)
        times = list(saved.values())
        return cls(folder, times[0], times[-1] - times[0], life.used - times[-1], saved)

    def __str__(self) -> str:
        parts = f"{self.start:.1f} s to its first checkpoint, {self.training:.1f} s of training, {self.end:.1f} s more"
        return f"untouched: {parts}; {len(self.saved)} checkpoints, step {self.last_step}"


class Moments:
    """When to disturb a run that is started again and again: waits for its lives, in the order of the run.

    Args:
        untouched: How long it takes if it is left alone.
        model_dir: Its folder.
        chance: What draws.
    """

    def __init__(self, untouched: Untouched, model_dir: Path, chance: random.Random) -> None:
        self._untouched, self._model_dir, self._chance = untouched, model_dir, chance
        self._rest = untouched.start + untouched.end

    def draw(self, number: int, more: Sequence[tuple[int, Wait]] = ()) -> list[Wait]:
        """Returns waits for so many moments, drawn evenly from the length of the untouched run.

        Args:
            number: How many.
            more: Others, each with the step at which it comes.
        """
        untouched = self._untouched
        at_start, at_step, at_end = [], list(more), []
        for _ in range(number):
            moment = self._chance.uniform(0, untouched.length)
            if moment < untouched.start:
                at_start.append(wait_for(moment))
            elif moment < untouched.start + untouched.training:
                step = max(step for step, saved in untouched.saved.items() if saved <= moment)
                at_step.append((step, self._after(step, moment - untouched.saved[step])))
            else:
                at_end.append(self._at_the_end(moment - untouched.start - untouched.training))
        waits = [wait for _, wait in sorted(at_step, key=lambda one: one[0])] + at_end
        for wait in at_start:  # whatever was saved before
            waits.insert(self._chance.randint(0, len(waits)), wait)
        return waits

    def while_saving(self) -> tuple[int, Wait]:
        """Returns a step, and a wait for the time when the checkpoint after it is written."""
        step, seconds = self._chance.choice(sorted(self._untouched.saved)[:-2]), self._chance.uniform(0, 0.003)

        def wait(life: Life) -> None:
            self._wait_for_step(life, step)
            life.sleep(lambda: any((self._model_dir / "checkpoints").glob("tmp-*")), 0.001)
            time.sleep(seconds)

        return step, wait

    def around_an_evaluation(self) -> tuple[int, Wait]:
        """Returns a step, and a wait for the time between its checkpoint and that of an evaluation, the next."""
        saved, every = self._untouched.saved, EXPERIMENT["save_checkpoints_steps"]
        pairs = [(one, after) for one, after in itertools.pairwise(sorted(saved)) if one % every == 0 < after % every]
        before, evaluated = self._chance.choice(pairs)
        return before, self._after(before, self._chance.uniform(0, saved[evaluated] - saved[before]))

    def at_any(self) -> Wait:
        """Returns a wait for any time in the life of a process that has little or nothing left to train."""
        return wait_for(self._chance.uniform(0, self._rest))

    def came_too_late(self, life: Life) -> None:
        """Takes notice of a process that has come to its end before."""
        self._rest = min(self._rest, life.used)

    def _wait_for_step(self, life: Life, step: int) -> None:
        """Waits for the checkpoint of a step, but at least for one of this life."""
        step = max(step, newest_step(self._model_dir) + 1)
        life.sleep(lambda: newest_step(self._model_dir) >= step)

    def _after(self, step: int, seconds: float) -> Wait:
        def wait(life: Life) -> None:
            self._wait_for_step(life, step)
            wait_for(life.used + seconds)(life)

        return wait

    def _at_the_end(self, seconds: float) -> Wait:
        last = self._untouched.last_step

        def wait(life: Life) -> None:
            if newest_step(self._model_dir) == last:  # then it has only to start, and to come to its end
                wait_for(self._untouched.start)(life)
            life.sleep(lambda: newest_step(self._model_dir) == last)
            wait_for(life.used + seconds)(life)

        return wait


def wait_for(used: float) -> Wait:
    """Returns a wait until a process has used so many seconds of processor time, or has ended."""
    return lambda life: life.sleep(lambda: life.used > used)


def has_begun_to_train(life: Life, model_dir: Path) -> bool:
    """Returns whether a process has come to its training loop, which opens an event file first."""
    curves = (path for path in model_dir.glob("events.out*") if path.suffix != ".hparams")
    return any(path.stat().st_mtime >= life.began for path in curves)


def phase(life: Life, model_dir: Path, untouched: Untouched) -> str:
    """Returns what a training is at, or was at when it died, by what it has written."""
    newest, evaluations = newest_step(model_dir), model_dir / "validation" / "evaluations.json"
    if any((model_dir / "checkpoints").glob("tmp-*")):
        return "saving"
    if evaluations.exists() and json.loads(evaluations.read_text())[-1]["global_step"] > newest:
        return "saving after an evaluation"
    if newest == untouched.last_step:
        return "the end, all steps made"
    return "training and evaluating" if has_begun_to_train(life, model_dir) else "start-up"
