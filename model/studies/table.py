"""Rows as text: for a terminal, as Markdown, as CSV, as JSON."""

import csv
import io
import json
from collections.abc import Mapping, Sequence

from model.common.text import printable

# Longer cells of the first column are broken into lines where a terminal is too narrow; shorter ones never are.
_BREAKABLE_WIDTH = 60

Row = Mapping[str, str | float | None]


def to_terminal(rows: Sequence[Mapping[str, str]], width: int) -> str:
    """Returns rows of text as a table.

    Args:
        rows: All with the same columns; the cells of the first may be broken into lines.
        width: Characters of a line; there are more of them if the other columns do not fit.
    """
    from rich import box, cells, console, table

    rows = [{column: printable(text) for column, text in row.items()} for row in rows]

    def width_of(column: str) -> int:
        return max(cells.cell_len(text) for text in (column, *(row[column] for row in rows)))

    first, *short = rows[0]
    drawn = table.Table(box=box.SIMPLE_HEAD, pad_edge=False)
    least_of_first = min(_BREAKABLE_WIDTH, width_of(first))
    drawn.add_column(first, min_width=least_of_first, overflow="fold")
    for column in short:
        drawn.add_column(column, no_wrap=True)
    for row in rows:
        drawn.add_row(*row.values())
    least = sum(map(width_of, short)) + least_of_first + 3 * len(rows[0])
    text = io.StringIO()
    console.Console(file=text, width=max(width, least), highlight=False, markup=False).print(drawn)
    return text.getvalue()


def to_markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Returns rows of text as a Markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "".join(f"| {' | '.join(map(_markdown_cell, line))} |\n" for line in lines)


def _markdown_cell(text: str) -> str:
    return printable(text).replace("|", "\\|")


def to_csv(rows: Sequence[Row]) -> str:
    """Returns rows as comma-separated values, empty where nothing is known; line breaks in a cell stay line breaks."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {column: _csv_cell(value) if isinstance(value, str) else value for column, value in row.items()} for row in rows
    )
    return text.getvalue()


def _csv_cell(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))


def to_json(rows: Sequence[Row]) -> str:
    """Returns rows as a JSON array of objects, null where nothing is known."""
    text = json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # Of what JSON lets stand as it is, a terminal would obey some: that is written as JSON's \u....
    return "".join(letter if letter.isprintable() or letter == "\n" else json.dumps(letter)[1:-1] for letter in text)
