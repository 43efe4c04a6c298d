"""Curves, read from event files while somebody may be writing them, without TensorFlow."""

import struct
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.util.tensor_util import make_ndarray


def read_scalar(folder: Path, name: str) -> dict[int, float]:
    """Returns the values of a scalar by global step, in the order in which they were written."""
    return {
        event.step: make_ndarray(value.tensor).item()
        for path in sorted(folder.glob("events.out.tfevents.*"))
        for event in _events(path)
        for value in event.summary.value
        if value.tag == name
    }


def _events(path: Path) -> Iterator[Event]:
    """Yields what is whole of a file of TFRecords: the length (uint64), its CRC, the content, its CRC."""
    try:
        records = path.read_bytes()
    except FileNotFoundError:  # rewritten in this moment
        return
    place = 0
    while place + 12 <= len(records):
        (length,) = struct.unpack_from("<Q", records, place)
        content = records[place + 12 : place + 12 + length]
        place += 12 + length + 4
        if place > len(records):
            return
        try:
            yield Event.FromString(content)
        except DecodeError:  # damaged
            return
