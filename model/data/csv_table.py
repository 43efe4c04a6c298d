"""CSV files that say something of image files, row by row: read strictly, and a mistake is told with its line."""

import csv
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.common.errors import UserError, listed
from model.common.files import read_bytes
from model.common.text import printable

_BOOLEANS: Mapping[str, bool] = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


@dataclass(frozen=True)
class Row:
    """A row of a file.

    Attributes:
        file: The file.
        line: The line that it begins in.
        cells: By the name of a column, what stands there.
    """

    file: Path
    line: int
    cells: Mapping[str, str]

    def error(self, message: str) -> UserError:
        """Returns what to raise if something is wrong with this row."""
        return _error(self.file, self.line, message)

    def told(self, column: str) -> str:
        """Returns what stands in a column, for a message."""
        return f"{column} {printable(self.cells[column], 200)!r}"

    def check_filled(self, column: str) -> None:
        """Makes sure that something stands in a column, on one line."""
        if not self.cells[column].strip():
            raise self.error(f"the {column} is empty; fill it, or remove the line")
        if any(character < " " for character in self.cells[column]):
            raise self.error(f"{self.told(column)} holds a line break or another control character")

    def path_below(self, folder: Path, column: str) -> Path:
        """Returns the path in a column: relative to a folder, or below it, whichever links lead there."""
        path = folder / self.cells[column]
        real = Path(os.path.realpath(path.parent), path.name)  # a file in the folder that is a link is in it
        for one, other in ((path, folder), (real, os.path.realpath(folder))):
            inside = Path(os.path.relpath(one, other))
            if inside.parts[:1] not in ((), (os.pardir,)):
                return folder / inside
        raise self.error(f"{self.told(column)} is not below {folder}; move the image there")

    def missing(self, column: str, error: OSError) -> str:
        """Returns what to say of the path in a column that leads to no file."""
        cell, odd = self.cells[column], ""
        if "\\" in cell:
            odd = "; it has a backslash, expected /"
        elif cell != cell.strip():
            odd = "; it begins or ends with a blank"
        return f"{printable(cell, 200)} in line {self.line} ({error.strerror}{odd})"

    def boolean(self, column: str, default: bool | None = None) -> bool:
        """Returns whether a column says True or False; `default`, if there is one, of one that may be empty."""
        text = self.cells[column].strip().lower()
        if text not in _BOOLEANS and (text or default is None):
            raise self.error(f"{self.told(column)}, expected True or False")
        return _BOOLEANS[text] if default is None else default


def read(
    path: Path, needed: Callable[[Sequence[str]], Sequence[str]], known: Sequence[str]
) -> tuple[list[str], Iterator[Row]]:
    """Reads a table whose first line names its columns.

    Args:
        path: The file, in UTF-8, with commas.
        needed: From the columns that there are to those that have to be there.
        known: The columns that are understood, in any order; the cells of others are dropped.

    Returns:
        The names of all columns, and the rows, as they are read.

    Raises:
        UserError: The file is no such table. Rows raise it as they are read.
        OSError: It cannot be read.
    """
    reader = csv.reader(io.StringIO(_read_text(path, needed(())), newline=""), strict=True)

    def lines() -> Iterator[tuple[int, list[str]]]:
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise _error(path, line, f"no CSV ({error}); mend the quotes in it") from None
            if cells is None:
                return
            if any(cells):
                yield line, cells

    filled = lines()
    line, header = next(filled, (1, []))
    columns = [name.strip() for name in header]
    if missing := [name for name in needed(columns) if name not in columns]:
        delimiter = next((sign for sign in ";\t|" if len(header) == 1 and sign in header[0]), None)
        if delimiter:
            raise _error(path, line, f"columns are separated by {delimiter!r}, expected commas; save it with commas")
        raise _error(
            path,
            line,
            f"no column {missing[0]!r} among {printable(', '.join(columns), 200)}; the first line names them",
        )
    if twice := [name for name in known if columns.count(name) > 1]:
        raise _error(path, line, f"two columns are called {twice[0]!r}, expected one; rename the other")

    def rows() -> Iterator[Row]:
        for line, cells in filled:
            if len(cells) != len(columns):
                raise _error(
                    path,
                    line,
                    f"has {len(cells)} cells, expected {len(columns)} as in the first line; quote what has commas",
                )
            yield Row(path, line, {name: cell for name, cell in zip(columns, cells, strict=True) if name in known})

    return columns, rows()


def notes_on_columns(path: Path, columns: Sequence[str], known: Sequence[str]) -> list[str]:
    """Returns a line on the columns that are not understood, if there are some."""
    ignored = [name for name in columns if name and name not in known]
    return [f"{path}: these columns are ignored: {listed(map(printable, ignored), most=12)}"] if ignored else []


def _error(path: Path, line: int, message: str) -> UserError:
    return UserError(f"{path}: line {line}: {message}")


def _read_text(path: Path, needed: Sequence[str]) -> str:
    content = read_bytes(path)
    if not content.strip():
        raise UserError(
            f"{path}: is empty, expected a table with the columns {', '.join(needed)}; write it or remove it"
        )
    try:
        text = content.decode("utf-8-sig")
        position = text.find("\0")
        line = text.count("\n", 0, position) + 1
    except UnicodeDecodeError as error:
        position, line = error.start, content.count(b"\n", 0, error.start) + 1
    if position >= 0:
        raise _error(path, line, f"holds bytes that are no text in UTF-8; save {path.name} as CSV in UTF-8")
    return text
