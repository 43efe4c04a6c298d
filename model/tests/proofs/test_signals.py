"""Signals and closed streams at moments all over a run: it is saved where it stopped, and goes on to the same bits."""

import random
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from model.tests.experiments import write_params
from model.tests.proofs.cases import check_whole
from model.tests.proofs.lives import (
    AT_ONCE,
    EXPERIMENT,
    Life,
    Moments,
    complete,
    differences,
    has_begun_to_train,
    newest_step,
    phase,
    wait_for,
)
from model.training import checkpoints

pytestmark = pytest.mark.proof

_RUNS, _SIGNALS_OF_A_RUN = 3, 4


def check_silence(life):
    """Finds that nothing went wrong in a way that nobody had thought of."""
    for word in ("Traceback", "Exception ignored", "Error:", "Fatal"):
        assert word not in life.stderr, life.stderr


def stop(life, number, model_dir, untouched):
    """Sends a signal that asks to stop, and checks what becomes of it.

    In the training loop the run saves the step at which it is, and says so; before and after there is nothing to be
    saved. Shells tell 128 + n of a process that ended by signal n, whether it handled the signal or not.
    """
    is_training, before = has_begun_to_train(life, model_dir), newest_step(model_dir)
    life.process.send_signal(number)
    code = life.wait()
    check_silence(life)
    newest = newest_step(model_dir)
    said = re.search(r"Stopped at step (\d+), which is saved; the same command goes on\.", life.stderr)
    if said:
        assert code == 128 + number and newest == int(said[1]) > before
    elif code == 0:  # it was at its last step, or done and about to end
        assert newest == untouched.last_step, f"nobody heard the signal: {life.stderr}"
    else:
        assert code in (128 + number, -number), f"exit code {code}: {life.stderr}"
        assert not is_training or newest == untouched.last_step, f"not saved: {life.stderr}"
        assert newest == before or is_training
    if newest:
        checkpoints.load(checkpoints.list_checkpoints(model_dir)[-1])
    return f"saved at step {said[1]}" if said else "nothing to save"


def suspend(life, model_dir):
    """Ctrl-Z, and after a while `fg`: nothing is written in between."""
    life.process.send_signal(signal.SIGTSTP)
    status = Path("/proc", str(life.process.pid), "stat")
    deadline = time.monotonic() + 60
    while status.read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline and life.is_running(), "not suspended"
        time.sleep(0.01)
    step = newest_step(model_dir)
    time.sleep(0.5)
    assert newest_step(model_dir) == step
    life.process.send_signal(signal.SIGCONT)


def ask_to_stop(untouched, folder, number, name):
    """Asks a run four times to stop, and lets it end; returns how often, and what went wrong."""
    model_dir = write_params(folder / f"{name}-{number}" / "small", **EXPERIMENT)
    moments = Moments(untouched, model_dir, random.Random(f"{name} {number}"))
    waits, sent = moments.draw(_SIGNALS_OF_A_RUN), 0
    while sent < _SIGNALS_OF_A_RUN:
        life = Life("train.py", ["--model_dir", "small"], model_dir.parent)
        (waits.pop(0) if waits else moments.at_any())(life)
        if not life.is_running():
            assert life.wait() == 0, life.stderr
            moments.came_too_late(life)
            continue
        sent += 1
        at = phase(life, model_dir, untouched)
        said = stop(life, signal.Signals[f"SIG{name}"], model_dir, untouched)
        print(f"{name}, run {number}: {at}: {said}, exit code {life.wait()}", flush=True)
        check_whole(model_dir)
    complete("train.py", "--model_dir", "small", folder=model_dir.parent)
    return differences(model_dir, untouched.folder)


def suspend_again_and_again(untouched, folder, number, name):
    """Suspends a run four times, all in one life unless that is shorter than planned; returns what went wrong."""
    model_dir = write_params(folder / f"{name}-{number}" / "small", **EXPERIMENT)
    chance = random.Random(f"{name} {number}")
    moments = Moments(untouched, model_dir, chance)
    waits = [wait_for(used) for used in sorted(chance.uniform(0, untouched.length) for _ in range(_SIGNALS_OF_A_RUN))]
    life, sent = Life("train.py", ["--model_dir", "small"], model_dir.parent), 0
    while sent < _SIGNALS_OF_A_RUN:
        (waits.pop(0) if waits else moments.at_any())(life)
        if not life.is_running():
            assert life.wait() == 0, life.stderr
            moments.came_too_late(life)
            life = Life("train.py", ["--model_dir", "small"], model_dir.parent)
            continue
        sent += 1
        at = phase(life, model_dir, untouched)
        suspend(life, model_dir)
        print(f"{name}, run {number}: {at}: suspended, step {newest_step(model_dir)}", flush=True)
    assert life.wait() == 0, life.stderr
    check_silence(life)
    return differences(model_dir, untouched.folder)


def problems_of(disturb, *arguments):
    """Returns what goes wrong when a run is disturbed, and prints it."""
    try:
        problems = disturb(*arguments)
    except AssertionError as error:
        problems = [str(error)]
    for problem in problems:
        print(*arguments[2:], problem, flush=True)
    return problems


@pytest.mark.parametrize(
    ("name", "disturb", "what"),
    [
        ("TERM", ask_to_stop, "SIGTERM"),
        ("INT", ask_to_stop, "SIGINT, Ctrl-C"),
        ("HUP", ask_to_stop, "SIGHUP, a terminal that is closed"),
        ("TSTP", suspend_again_and_again, "SIGTSTP and SIGCONT, Ctrl-Z and fg"),
    ],
)
def test_signals(untouched, tmp_path, tally, name, disturb, what):
    with ThreadPoolExecutor(AT_ONCE) as pool:
        problems = list(pool.map(lambda number: problems_of(disturb, untouched, tmp_path, number, name), range(_RUNS)))
    tally(f"train.py, {what}", tried=_RUNS * _SIGNALS_OF_A_RUN, survived=_SIGNALS_OF_A_RUN * problems.count([]))


# ------------------------------------------------------------------------------------------------- closed streams

# What the shell does, which stream has a reader that goes at some moment, and the exit code.
_WAYS = {
    "2>&-": (["sh", "-c", 'exec "$@" 2>&-', "sh"], None, 0),
    "2> >(a reader that goes)": ([], "stderr", 0),
    "| a reader that goes": ([], "stdout", 128 + signal.SIGPIPE),
}
_LIVES_OF_A_WAY = 4


def close(untouched, folder, way, number):
    """Runs a training whose output goes nowhere from some moment on; returns what went wrong."""
    before, closed, expected_code = _WAYS[way]
    model_dir = write_params(folder / f"{closed}-{number}" / "small", **EXPERIMENT)
    part = (number + random.Random(f"{way} {number}").random()) / _LIVES_OF_A_WAY
    life = Life("train.py", ["--model_dir", "small"], model_dir.parent, before, closed)
    if closed:
        wait_for(part * (untouched.start + untouched.training))(life)
        (life.process.stdout or life.process.stderr).close()
    print(f"{way}, run {number}: {phase(life, model_dir, untouched)}", flush=True)
    code, said = life.wait(), life.stdout + life.stderr
    problems = [f"exit code {code}"] * (code != expected_code) + [said] * ("Traceback" in said)
    return problems + differences(model_dir, untouched.folder)


def test_closed_streams(untouched, tmp_path, tally):
    lives = [(way, number) for way in _WAYS for number in range(_LIVES_OF_A_WAY)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        problems = list(pool.map(lambda life: problems_of(close, untouched, tmp_path, *life), lives))
    tally("train.py, closed stderr and closed stdout", tried=len(lives), survived=problems.count([]))
