"""Files that are there as a whole or not at all, also after a crash."""

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Writes a text file beside, flushes it to the disk, and renames it onto the one that is there."""
    beside = path.with_name(f"tmp-{path.name}")
    beside.write_text(text, encoding="utf-8")
    flush(beside)
    os.replace(beside, path)
    flush(path.parent)


def flush(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
