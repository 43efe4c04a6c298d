"""Runs a script as a child process that does not outlive its parent.

The parent runs `start`, the child this file as `__main__`. The parent holds the other end of the child's stdin. Once
the parent is gone, even by kill -9, stdin ends, and the child sends SIGTERM to itself.
"""

import contextlib
import logging
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from model.common.commands import ROOT
from model.common.errors import UserError
from model.common.files import lock_experiment, open_to_append

_log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOOKS = 0.5


def start(script: Path, arguments: Sequence[str | Path], log: BinaryIO) -> "subprocess.Popen[bytes]":
    """Starts a script.

    Args:
        script: A Python file.
        arguments: Its command line.
        log: What it prints goes there.

    Returns:
        The process; to close its stdin is to ask it to stop.
    """
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        # -P: by itself, -m looks for modules in the current folder first, where there may be an "argparse.py" or a
        # "model" that has nothing to do with this program. PYTHONPATH says where its own modules are.
        # -u: what it prints and what it complains of stand in the log in their order, and at once.
        [sys.executable, "-P", "-u", "-m", __name__, script, *arguments],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        # Whatever machines train together, a script that is started here does so alone.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "TF_CONFIG": ""},
        # Ctrl-C reaches all processes that a terminal runs in the foreground. In a session of its own the child is not
        # one of them, and the parent alone decides when it stops.
        start_new_session=True,
    )


def run(
    script: Path, arguments: Sequence[str | Path], log: Path, seconds: float, is_ending: Callable[[], bool]
) -> tuple[int, str]:
    """Starts a script and waits for its end.

    Args:
        script: As for `start`, like `arguments`.
        arguments: Its command line.
        log: What it prints goes to the end of this file.
        seconds: Between two looks at it.
        is_ending: Asked at each look: whether it is to stop, which it is told once.

    Returns:
        Its exit code, below 0 if a signal ended it, and what `last_words` tells.
    """
    with os.fdopen(open_to_append(log), "ab") as file:
        begin = os.fstat(file.fileno()).st_size
        with start(script, arguments, file) as process:
            while process.poll() is None:
                time.sleep(seconds)
                if is_ending():
                    process.terminate()
                    process.wait()
    return process.returncode, last_words(process.returncode, log, begin)


def last_words(exit_code: int, log: Path, begin: int = 0) -> str:
    """Returns why a process has ended: the signal that killed it, or else the last line of its own in its log.

    Args:
        exit_code: Of the process; below 0 if a signal ended it.
        log: The file.
        begin: Where in it the process began to write, in bytes: others have written before.
    """
    if exit_code < 0:
        return f"killed by signal {-exit_code}"
    lines = log.read_bytes()[begin:].decode(errors="replace").split("\n")
    return next((line.strip()[:500] for line in reversed(lines) if line.strip()), "it said nothing")


def wait_for_others(model_dir: Path, is_stopping: Callable[[], bool]) -> None:
    """Waits while a process trains in a folder, as one may whose parent was killed.

    Args:
        model_dir: The folder.
        is_stopping: Whether to wait no longer.
    """
    is_said = False
    while not is_stopping():
        with contextlib.suppress(UserError), lock_experiment(model_dir):
            return
        if not is_said:
            _log.info("%s: another process trains here; waiting for its end.", model_dir)
            is_said = True
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _end_with_parent() -> None:
    while os.read(0, 1):  # nobody writes; it returns b"" when the parent's end of the pipe is closed
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
