"""Finds the code in the pages, runs it, and writes what it prints below it.

    python -m docs.tools.snippets docs/triplet-loss.md      # runs a page, and writes its outputs

A page is one program: its Python blocks run from top to bottom, in one namespace, in the folder of the repository. A
block ```` ```output ```` says what the Python block before it prints. A block is not run where the line before it is
`<!-- not run: WHY -->`.
"""

import argparse
import contextlib
import io
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_BLOCK = re.compile(
    r"^(?P<comment><!-- not run: (?P<why>.+) -->\n+)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A block of code in a page.

    Attributes:
        language: What it is in: "python", "json", "output", or "" for commands.
        text: What stands in it.
        line: The number of its first line in the page, from 1.
        span: Where the text begins and ends in the page.
        not_run: Why it is not run; "" where it is.
    """

    language: str
    text: str
    line: int
    span: tuple[int, int]
    not_run: str = ""


def blocks_of(page: str) -> list[Block]:
    """Returns the blocks of a page, in their order."""
    return [
        Block(
            found["language"],
            found["text"],
            page.count("\n", 0, found.start("text")) + 1,
            found.span("text"),
            found["why"] or "",
        )
        for found in _BLOCK.finditer(page)
    ]


def run(path: Path) -> Iterator[tuple[Block, str]]:
    """Runs the Python blocks of a page, and yields each with what it printed."""
    namespace: dict[str, object] = {"__name__": "__page__"}
    for block in blocks_of(path.read_text(encoding="utf-8")):
        if block.language == "python" and not block.not_run:
            printed = io.StringIO()
            # Line numbers of a traceback are those of the page.
            code = compile("\n" * (block.line - 1) + block.text, str(path), "exec")
            with contextlib.redirect_stdout(printed):
                exec(code, namespace)
            yield block, printed.getvalue()


def with_outputs(path: Path) -> str:
    """Returns a page with what its code prints now in the blocks that say it."""
    page = path.read_text(encoding="utf-8")
    printed = {block.line: text for block, text in run(path)}
    said = []
    blocks = blocks_of(page)
    for before, block in itertools.pairwise(blocks):
        if block.language == "output" and before.line in printed:
            said.append((block.span, printed[before.line]))
    for (begin, end), text in reversed(said):
        page = page[:begin] + text + page[end:]
    return page


def main() -> None:
    """Runs pages and writes their outputs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path, help="Markdown files")
    for path in parser.parse_args().pages:
        path.write_text(with_outputs(path), encoding="utf-8")


if __name__ == "__main__":
    main()
