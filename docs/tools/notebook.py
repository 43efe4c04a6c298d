"""Makes the notebook of the tutorial out of its page.

    python -m docs.tools.notebook               # docs/triplet-loss.md -> docs/triplet-loss.ipynb

The Python blocks of the page are its cells, and what they print is what the page says. A test runs both.
"""

import contextlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from docs.tools.snippets import ROOT, blocks_of

PAGE = ROOT / "docs" / "triplet-loss.md"
NOTEBOOK = PAGE.with_suffix(".ipynb")

_BEGIN = """\
# Finds the project beside the folder of this notebook, and keeps TensorFlow quiet.
import os
import sys

sys.path.insert(0, os.path.abspath(".."))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")"""


@dataclass(frozen=True)
class Cell:
    """A cell: "markdown" or "code", what stands in it, and what it prints."""

    kind: str
    text: str
    output: str = ""


def cells_of(page: str) -> list[Cell]:
    """Returns the cells of a page, with the outputs that the page says."""
    cells: list[Cell] = []
    end = 0
    for block in blocks_of(page):
        if block.language not in ("python", "output"):
            continue
        begin = page.rindex("```", 0, block.span[0])
        cells.append(Cell("markdown", page[end:begin].strip()))
        if block.language == "python":
            cells.append(Cell("code", block.text.strip()))
        else:
            code = max(place for place, cell in enumerate(cells) if cell.kind == "code")
            cells[code] = Cell("code", cells[code].text, block.text)
        end = block.span[1] + len("```\n")
    cells.append(Cell("markdown", page[end:].strip()))
    cells = [cell for cell in cells if cell.text]
    first = next(place for place, cell in enumerate(cells) if cell.kind == "code")
    return [*cells[:first], Cell("code", _BEGIN), *cells[first:]]


def notebook_of(cells: Iterable[Cell]) -> str:
    """Returns a notebook as JSON (nbformat 4.5)."""
    content = []
    for number, cell in enumerate(cells, 1):
        entry: dict[str, Any] = {"cell_type": cell.kind, "id": f"cell-{number}", "metadata": {}}
        entry["source"] = cell.text.splitlines(keepends=True)
        if cell.kind == "code":
            printed = {"output_type": "stream", "name": "stdout", "text": cell.output.splitlines(keepends=True)}
            entry |= {"execution_count": None, "outputs": [printed] if cell.output else []}
        content.append(entry)
    metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook = {"cells": content, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def read(notebook: str) -> list[Cell]:
    """Returns the cells of a notebook."""
    cells = []
    for entry in json.loads(notebook)["cells"]:
        printed = "".join(line for output in entry.get("outputs", []) for line in output["text"])
        cells.append(Cell(entry["cell_type"], "".join(entry["source"]), printed))
    return cells


def run(cells: Iterable[Cell]) -> list[Cell]:
    """Runs the code of cells from top to bottom, in one namespace; returns them with what each printed."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    done = []
    for number, cell in enumerate(cells, 1):
        printed = io.StringIO()
        if cell.kind == "code":
            with contextlib.redirect_stdout(printed):
                exec(compile(cell.text, f"cell {number}", "exec"), namespace)
        done.append(Cell(cell.kind, cell.text, printed.getvalue()))
    return done


def main() -> None:
    """Makes the notebook."""
    NOTEBOOK.write_text(notebook_of(cells_of(PAGE.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
