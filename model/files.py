"""Files that are there as a whole or not at all, also after a crash."""

import os
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file beside, flushes it to the disk, and renames it onto the one that is there."""
    beside = path.with_name(f"tmp-{path.name}")
    try:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        flush(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    flush(path.parent)


def flush(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
