"""What the proofs share: what a command may say, which files it may leave, and cases of which none hides the others."""

import json
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from model.training import checkpoints

# What a run writes last of a report.
_END_OF_REPORT = "</html>"


def survives(name: str, case: Callable[[], object]) -> bool:
    """Returns whether a case went well; if not, its name and what went wrong are printed, and the others go on."""
    try:
        case()
    except AssertionError as failure:
        print(f"\n{name}: {failure}")
        return False
    return True


def line_of_refusal(stderr: str) -> str:
    """Returns the last line, with which a command was refused; it can be printed."""
    lines = stderr.splitlines()
    assert lines and lines[-1].isprintable(), stderr
    return lines[-1]


def without_seconds(report: Path) -> str:
    """What a report says, but for how long the training took."""
    return re.sub(r"<dd>[\d,]+ seconds</dd>", "", report.read_text())


def check_whole(folder: Path, *, was_killed: bool = False) -> None:
    """Makes sure that no file is half-written, but for logs and event files, which grow at their ends.

    Only a process that was killed may leave what was not ready, under a name that nobody reads.
    """
    for path in sorted(folder.rglob("*")):
        if any(part.startswith("tmp-") for part in path.relative_to(folder).parts):
            assert was_killed, f"{path} was left"
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith(_END_OF_REPORT), f"{path} is half a file"
        elif path.suffix == ".npy":
            np.load(path)
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                assert [arrays[name].shape for name in arrays], f"{path} is empty"
        elif path.suffix == ".db":
            with sqlite3.connect(path) as database:
                assert database.execute("pragma integrity_check").fetchall() == [("ok",)], f"{path} is damaged"
            database.close()
        elif re.fullmatch(r"step-\d{8}", path.name):
            checkpoints.load(path)
