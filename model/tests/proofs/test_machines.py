"""Several processes of one run: killed, frozen, stopped, short of room, or missing; none waits, all say why, and go on.

Each has a folder of its own, as on machines that share nothing: whatever it learns comes from the chief.
"""

import itertools
import random
import re
import signal
import time
from pathlib import Path

import pytest

from model.common.errors import PeerLost
from model.tests.experiments import write_params
from model.tests.machines import free_addresses, tf_config
from model.tests.proofs.cases import check_whole, survives
from model.tests.proofs.lives import Life, differences, newest_step
from model.tests.proofs.test_full_disk import _ROOM, mounted
from model.training import checkpoints

pytestmark = pytest.mark.proof

# Everything that has a state and is the work of all: batch normalization, a memory of past batches, augmentation.
EXPERIMENT = {
    "use_batch_norm": True, "augmentation": "affine", "learning_rate_schedule": "cosine", "warmup_steps": 20,
    "memory_size": 100, "validation_size": 0.2, "early_stopping_patience": 1000, "evaluate_every_epochs": 2,
    "save_checkpoints_steps": 11, "keep_checkpoint_max": 2, "num_epochs": 8,
}  # fmt: skip

# A process that dies before it has joined is one that never comes; others must be told within this time.
_JOIN_TIMEOUT, _LONGEST_WAIT = 20, 30.0

# By itself each has to keep TensorFlow quiet, as where nobody has set this.
_ENV = ("env", "-u", "TF_CPP_MIN_LOG_LEVEL")
_NAMES = ("chief", "worker", "worker-2", "worker-3")


class Machines:
    """Some processes, each started in a folder of its own, which is given.

    Args:
        folder: Holds those of all.
        number: How many processes.
    """

    def __init__(self, folder: Path, number: int = 2, experiment: dict = EXPERIMENT) -> None:
        self.folders = [folder / name for name in _NAMES[:number]]
        for one in self.folders:
            if not (one / "small").exists():
                write_params(one / "small", **experiment)
        addresses = free_addresses(number)
        arguments = ["--model_dir", "small", "--join_timeout", str(_JOIN_TIMEOUT)]
        self.lives = [
            Life("train.py", arguments, one, [*_ENV, f"TF_CONFIG={tf_config(addresses, index)}"])
            for index, one in enumerate(self.folders)
        ]
        self.addresses = addresses

    @property
    def model_dir(self) -> Path:
        """The experiment as the chief has it."""
        return self.folders[0] / "small"

    def name(self, index: int) -> str:
        """What the processes call one of them."""
        return f"process {index + 1} of {len(self.lives)} ({self.addresses[index]})"

    def wait(self) -> list[int]:
        """Waits for all, and returns their exit codes; nobody but the chief has written anything."""
        codes = [life.wait() for life in self.lives]
        for life in self.lives:
            assert "Traceback" not in life.stderr, life.stderr
        for one in self.folders[1:]:
            assert [path.name for path in (one / "small").iterdir()] == ["params.json"]
        return codes

    def last_lines(self) -> list[str]:
        """What each of them said last, "" of one that was killed before it said anything."""
        return [(life.stderr.splitlines() or [""])[-1] for life in self.lives]

    def others_end(self, lost: int, since: float) -> None:
        """Makes sure that all but one end in time, with one line that names it, unless all had been done."""
        for index, life in enumerate(self.lives):
            if index == lost:
                continue
            deadline = since + _LONGEST_WAIT
            while life.process.poll() is None:
                assert time.monotonic() < deadline, f"{_NAMES[index]} hangs: {life.stderr}"
                time.sleep(0.02)
            code, lines = life.process.returncode, life.stderr.splitlines()
            assert "Traceback" not in life.stderr, life.stderr
            if code != 0:
                assert code == PeerLost.EXIT_CODE, f"exit code {code}: {life.stderr}"
                told = [line for line in lines if self.name(lost) in line and not line.startswith("Waiting for ")]
                assert told == lines[-1:], life.stderr


@pytest.fixture(scope="module")
def peace(tmp_path_factory):
    """Two processes that nobody disturbed, and the processor time that the chief took."""
    machines = Machines(tmp_path_factory.mktemp("peace"))
    used, begun, life = 0.0, None, machines.lives[0]
    while life.is_running():
        used = life.used
        begun = begun or (used if newest_step(machines.model_dir) else None)
        time.sleep(0.02)
    assert machines.wait() == [0, 0], machines.last_lines()
    print(f"\nin peace: {begun:.1f} s of processor time to the first checkpoint, {used:.1f} s in all")
    return machines.model_dir, begun, used


def disturb(peace, folder, chance, what, lost):
    """Starts all processes, does something to one of them at some moment, and lets all end; returns how it went."""
    _, begun, used = peace
    machines = Machines(folder)
    # Half of the moments are in the start, which every life has, the others somewhere behind.
    moment = chance.uniform(0.2, begun) if chance.random() < 0.5 else chance.uniform(begun, used)
    life = machines.lives[lost]
    life.sleep(lambda: life.used > moment)
    if not life.is_running():
        assert machines.wait() == [0, 0], machines.last_lines()
        return False
    step = newest_step(machines.model_dir)
    what(machines, lost)
    check_whole(machines.model_dir, was_killed=True)
    assert newest_step(machines.model_dir) >= step
    print(f"{what.__name__} of {_NAMES[lost]} after {moment:.1f} s, step {newest_step(machines.model_dir)}", flush=True)
    return True


def kill(machines, lost):
    machines.lives[lost].process.kill()
    machines.lives[lost].wait()
    machines.others_end(lost, time.monotonic())


def freeze(machines, lost):
    """SIGSTOP; and whoever wakes up again when the others are gone ends, too."""
    process, since = machines.lives[lost].process, time.monotonic()
    process.send_signal(signal.SIGSTOP)
    machines.others_end(lost, since)
    process.send_signal(signal.SIGCONT)
    since = time.monotonic()
    while process.poll() is None:
        assert time.monotonic() < since + _LONGEST_WAIT, f"hangs after SIGCONT: {machines.lives[lost].stderr}"
        time.sleep(0.02)
    assert process.returncode in (0, PeerLost.EXIT_CODE), machines.lives[lost].stderr


def terminate(machines, lost):
    """SIGTERM: in the training loop all save and stop, before it whoever is asked ends at once, as others do."""
    since = time.monotonic()
    machines.lives[lost].process.send_signal(signal.SIGTERM)
    for life in machines.lives:
        while life.process.poll() is None:
            assert time.monotonic() < since + _LONGEST_WAIT, f"hangs after SIGTERM: {life.stderr}"
            time.sleep(0.02)
        assert "Traceback" not in life.stderr, life.stderr
    said = [re.search(r"Stopped at step (\d+), which is saved", life.stderr) for life in machines.lives]
    if any(said):
        assert all(said) and len({match[1] for match in said}) == 1, machines.last_lines()
        assert newest_step(machines.model_dir) == int(said[0][1])
        assert {life.process.returncode for life in machines.lives} == {128 + signal.SIGTERM}
    elif {life.process.returncode for life in machines.lives} != {0}:
        machines.others_end(lost, since)


def disturb_and_go_on(peace, folder, chance, what, lost, times):
    """Disturbs a run at most so many times and lets it come to its end; returns how often, and if all is well."""
    done = 0

    def live():
        nonlocal done
        while done < times and disturb(peace, folder, chance, what, lost):
            done += 1
        machines = Machines(folder)
        assert machines.wait() == [0, 0], machines.last_lines()
        found = differences(machines.model_dir, peace[0])
        assert not found, found

    is_well = survives(f"{what.__name__} of {_NAMES[lost]}, {folder.name}", live)
    return max(done, not is_well), is_well


@pytest.mark.parametrize(
    ("what", "lost", "number"),
    [(kill, 0, 10), (kill, 1, 10), (freeze, 0, 2), (freeze, 1, 3), (terminate, 0, 2), (terminate, 1, 3)],
)
def test_a_process_is_disturbed(peace, tmp_path, tally, what, lost, number):
    chance, tried, well = random.Random(f"{what.__name__} {lost}"), 0, 0
    for count in itertools.count():
        done, is_well = disturb_and_go_on(peace, tmp_path / str(count), chance, what, lost, min(5, number - tried))
        tried, well = tried + done, well + done * is_well
        if tried >= number:
            break
    tally(f"two processes, {what.__name__} of the {_NAMES[lost]}", tried=tried, survived=well)


@pytest.mark.parametrize("missing", [0, 1])
def test_a_process_that_never_comes(tmp_path, tally, missing):
    machines = Machines(tmp_path, 3)
    machines.lives[missing].process.kill()
    machines.lives[missing].process.wait()
    since = time.monotonic()

    def others_say_so():
        machines.others_end(missing, since)
        for index, line in enumerate(machines.last_lines()):
            assert index == missing or "has not come within 20 s" in line, line

    tally(
        f"three processes, one never comes ({_NAMES[missing]})",
        tried=1,
        survived=int(survives("missing", others_say_so)),
    )


def test_a_full_disk_at_the_chief(peace, tmp_path, tally):
    with mounted(tmp_path / "chief") as disk:

        def fill_and_go_on():
            write_params(disk.path / "small", **EXPERIMENT)
            disk.resize(disk.used + 40_000)  # no room for the second checkpoint
            machines = Machines(tmp_path)
            codes = machines.wait()
            assert codes == [2, PeerLost.EXIT_CODE], machines.last_lines()
            chief, worker = machines.last_lines()
            assert "No space left on device" in chief and f"{machines.name(0)}, the chief has failed: " in worker
            disk.resize(_ROOM)
            check_whole(machines.model_dir)
            machines = Machines(tmp_path)
            assert machines.wait() == [0, 0], machines.last_lines()
            found = differences(machines.model_dir, peace[0])
            assert not found, found

        tally("two processes, disk full at the chief", tried=1, survived=int(survives("disk", fill_and_go_on)))


def test_four_processes_and_a_run_that_goes_on_with_others(peace, tmp_path, tally):
    """Four in peace, four of which one is killed; then a run of two that goes on with four, and with one."""

    def four():
        whole = Machines(tmp_path / "whole", 4)
        assert whole.wait() == [0] * 4, whole.last_lines()
        killed = Machines(tmp_path / "killed", 4)
        killed.lives[0].sleep(lambda: newest_step(killed.model_dir) >= 22)
        kill(killed, 2)
        again = Machines(tmp_path / "killed", 4)
        assert again.wait() == [0] * 4, again.last_lines()
        found = differences(again.model_dir, whole.model_dir)
        assert not found, found

    def others():
        two = Machines(tmp_path / "changing")
        two.lives[0].sleep(lambda: newest_step(two.model_dir) >= 11)
        terminate(two, 1)
        four = Machines(tmp_path / "changing", 4)
        four.lives[0].sleep(lambda: newest_step(four.model_dir) >= 33)
        terminate(four, 0)
        assert "Devices that share a batch: 4, and 2 until here." in four.lives[0].stderr
        alone = Life("train.py", ["--model_dir", "small"], four.folders[0])
        assert alone.wait() == 0, alone.stderr
        assert "Devices that share a batch: 1, and 4 until here." in alone.stderr
        assert newest_step(four.model_dir) == newest_step(peace[0])

    survived = survives("four", four) + survives("others", others)
    tally("four processes, and a change from two to four and one", tried=2, survived=survived)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"margin": 0.25}, "'margin' in params.json is 0.25 at process 2 of 2"),
        ({"batch_size": 63}, "'batch_size' in params.json is 63 at process 2 of 2"),
        ({"unknown": 1}, "unknown key 'unknown'"),
    ],
)
def test_another_params_json_at_a_worker(tmp_path, tally, change, said):
    write_params(tmp_path / "worker" / "small", **{**EXPERIMENT, **change})
    machines = Machines(tmp_path)

    def is_one_line():
        codes = machines.wait()
        assert 2 in codes and set(codes) <= {2, PeerLost.EXIT_CODE}, codes
        for line in machines.last_lines():
            assert said in line, line
        assert not checkpoints.list_checkpoints(machines.model_dir)

    tally(f"two processes, {next(iter(change))} differs", tried=1, survived=int(survives(str(change), is_one_line)))


def test_a_batch_that_cannot_be_shared(tmp_path, tally):
    machines = Machines(tmp_path, experiment={**EXPERIMENT, "batch_size": 63})

    def is_one_line():
        codes = machines.wait()
        assert 2 in codes and set(codes) <= {2, PeerLost.EXIT_CODE}, codes
        for line in machines.last_lines():
            assert "'batch_size' must be a multiple of the 2 devices, received 63" in line, line

    tally("two processes, batch_size is odd", tried=1, survived=int(survives("batch_size", is_one_line)))
