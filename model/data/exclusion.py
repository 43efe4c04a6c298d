"""Lists of images to leave out of training: text files with the name of an image in each line.

An image file is called by its path below the folder of the data, with `/` between folders. Images that are no files of
their own are called by their split and their number there, from 0: `train/17`. Lines that begin with `#` and empty
lines do not count; a path that begins with `#` is written `./#...`. As a number fits any data, a list of numbers also
tells of which labels they are the numbers, in its first line, by which a list of other data is noticed.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from model.common.errors import UserError
from model.common.files import read_bytes
from model.common.text import printable

_LABELS = "# sha256 of the labels: "


@dataclass(frozen=True)
class ExclusionList:
    """What a list says.

    Attributes:
        path: Its file.
        names: Of the images, each once.
        labels_sha256: The fingerprint of the labels that it was made for; "" where it does not tell.
    """

    path: Path
    names: frozenset[str]
    labels_sha256: str = ""


def read(path: Path) -> ExclusionList:
    """Reads a list.

    Raises:
        UserError: It is not there, or cannot be read.
    """
    try:
        text = os.fsdecode(read_bytes(path).removeprefix(b"\xef\xbb\xbf"))
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file in {Path.cwd()}, expected the list of images that 'exclude_images' in params.json "
            "names; name it by its whole path, or as seen from the folder in which the command is started"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read as 'exclude_images': {error.strerror}") from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    told = next((line.removeprefix(_LABELS).strip() for line in lines if line.startswith(_LABELS)), "")
    names = {line.removeprefix("./") for line in lines if line and not line.startswith("#")}
    return ExclusionList(path, frozenset(names), told)


def as_text(names: Collection[str], labels_sha256: str = "") -> str:
    """Returns what a list says, as `read` reads it.

    Raises:
        UserError: A name has a line break in it.
    """
    if broken := [name for name in names if "\n" in name or "\r" in name]:
        raise UserError(f"{printable(broken[0])}: has a line break in its name, and cannot be listed; rename the file")
    first = f"{_LABELS}{labels_sha256}\n" if labels_sha256 else ""
    return first + "".join(f"./{name}\n" if name.startswith("#") else f"{name}\n" for name in names)
