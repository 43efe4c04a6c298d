"""Runs a script as a child process that does not outlive its parent.

The parent runs `start`, the child this file as `__main__`. The parent holds the other end of the child's stdin. Once
the parent is gone, even by kill -9, stdin ends, and the child sends SIGTERM to itself.
"""

import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from model.common.commands import ROOT


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
        [sys.executable, "-P", "-m", __name__, script, *arguments],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        # Whatever machines train together, a script that is started here does so alone.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "TF_CONFIG": ""},
        # Ctrl-C reaches all processes that a terminal runs in the foreground. In a session of its own the child is not
        # one of them, and the parent alone decides when it stops.
        start_new_session=True,
    )


def _end_with_parent() -> None:
    while os.read(0, 1):  # nobody writes; it returns b"" when the parent's end of the pipe is closed
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
