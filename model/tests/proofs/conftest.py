"""`tally`, by which each proof says how often it tried and how often that went well.

Where the environment variable RELIABILITY names a file, as `make proofs` does, the line goes there at once, in place of
one with the same name: the proofs can be run together, one by one, or side by side, and stopped in between.
"""

import datetime
import fcntl
import os
import platform
import time
from pathlib import Path

import pytest
import tensorflow as tf

from model.common import devices
from model.tests.experiments import write_params
from model.tests.proofs.lives import EXPERIMENT, Untouched


@pytest.fixture(scope="session")
def untouched(tmp_path_factory) -> Untouched:
    """The run that those are compared with which are disturbed."""
    found = Untouched.train(write_params(tmp_path_factory.mktemp("untouched") / "small", **EXPERIMENT))
    print(f"\n{found}")
    return found


@pytest.fixture
def tally():
    """`tally(name, tried=50, survived=50)` prints and keeps the result, and fails unless all survived."""
    started = time.monotonic()

    def report(name: str, *, tried: int, survived: int) -> None:
        nonlocal started
        took, started = time.monotonic() - started, time.monotonic()
        result = f"{name}: tried {tried}, survived {survived}"
        print(f"\n{result}")
        if "RELIABILITY" in os.environ:
            _keep(Path(os.environ["RELIABILITY"]), name, f"{result}  ({took:.0f} s, {datetime.date.today()})")
        assert tried > 0 and survived == tried, result

    return report


def _keep(path: Path, name: str, line: str) -> None:
    python = ".".join(platform.python_version_tuple()[:2])
    header = f"$ make proofs      # {devices.describe()}, TensorFlow {tf.__version__}, Python {python}"
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
        file.seek(0)
        others = [other for other in file.read().splitlines()[2:] if not other.startswith(f"{name}: tried ")]
        file.truncate(0)
        file.write("\n".join([header, "", *sorted([*others, line])]) + "\n")
