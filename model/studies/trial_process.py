"""Runs a script as a child that does not outlive its parent: `python -m model.studies.trial_process train.py ...`.

The parent holds the other end of stdin. Once the parent is gone, even by kill -9, stdin ends, and the child sends
SIGTERM to itself.
"""

import os
import runpy
import signal
import sys
import threading


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
