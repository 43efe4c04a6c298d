"""How a contender is driven: a process that makes a block of steps for each line that it reads, and tells the seconds.

So several contenders can take turns, each in a process of its own, and those that wait do nothing.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import IO, cast


def serve(make_steps: Callable[[], None]) -> None:
    """Makes a block of steps for each line on stdin, and prints its seconds; ends when stdin does."""
    for _ in sys.stdin:
        started = time.perf_counter()
        make_steps()
        tell(time.perf_counter() - started)


def tell(seconds: float) -> None:
    """Prints the seconds of a block."""
    print(json.dumps({"seconds": seconds}), flush=True)


class Contender:
    """The process of a contender.

    Args:
        module: What is run, with `python -m`.
        arguments: Its command line.
    """

    def __init__(self, module: str, arguments: Sequence[str]) -> None:
        self._name = " ".join([module, *arguments])
        command = [sys.executable, "-m", module, *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._stdin, self._stdout = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)

    def block(self) -> float:
        """Lets it make a block of steps, and returns the seconds; those of the first contain all compilation."""
        self._stdin.write("\n")
        self._stdin.flush()
        for line in self._stdout:
            if line.startswith('{"seconds"'):
                return float(json.loads(line)["seconds"])
        raise RuntimeError(f"Expected {self._name} to go on. Received: exit code {self._process.wait()}")

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()
