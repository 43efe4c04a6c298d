"""Draws the rooms by their imports, and lists the files of each, in docs/architecture.md.

    python -m docs.tools.code_map               # docs/images/rooms.svg, and the list between its marks

The order of the rooms, and what counts as an import, are those of `model/tests/test_architecture.py`.
"""

import ast
import collections
import re
from collections.abc import Collection
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from docs.tools.snippets import ROOT
from model.tests import test_architecture as architecture

PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "images" / "rooms.svg"
BEGIN, END = "<!-- made by: python -m docs.tools.code_map -->\n", "<!-- end -->\n"


def files_of_rooms() -> dict[str, list[str]]:
    """Returns the files of each room, from the top to the bottom; what is no folder is a room of one file."""
    files = collections.defaultdict(list)
    for module in architecture.MODULES:
        files[architecture.room_of(module)].append(module)
    floors = [sorted(rooms) for rooms in architecture.ROOMS]
    return {room: sorted(files[room]) for rooms in floors for room in rooms}


def arrows() -> dict[tuple[str, str], int]:
    """Returns how many imports go from one room to another."""
    room_of = architecture.room_of
    return dict(collections.Counter((room_of(a), room_of(b)) for a, b in architecture.arrows()))


def without_detours(arrows: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
    """Returns the arrows whose end cannot be reached from their beginning by others."""
    after = collections.defaultdict(set)
    for room, other in arrows:
        after[room].add(other)

    def reached_from(room: str) -> set[str]:
        return after[room].union(*(reached_from(other) for other in after[room]))

    return [
        (room, other)
        for room, other in arrows
        if not any(other in reached_from(between) for between in after[room] - {other})
    ]


def what_for(path: Path) -> str:
    """Returns the first sentence of the docstring of a file."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"[.:](?: |$)", first)[0]


def listing() -> str:
    """Returns the rooms and their files as Markdown."""
    lines: list[str] = []
    for room, modules in files_of_rooms().items():
        folder = ROOT.joinpath(*room.split("."))
        if room == "scripts":
            lines += ["", "### The command lines", ""]
        elif folder.is_dir():
            lines += ["", f"### `{folder.relative_to(ROOT)}/`", "", f"{what_for(folder / '__init__.py')}.", ""]
        else:
            lines += ["", f"### `{folder.relative_to(ROOT)}.py`", ""]
        for module in modules:
            path = architecture.MODULES[module]
            meaning = re.sub(r"([<*])", r"\\\1", what_for(path))
            lines.append(f"- [`{path.name}`](../{path.relative_to(ROOT)}): {meaning}")
    return "\n".join(lines).strip() + "\n"


def floors_of(rooms: Collection[str], arrows: Collection[tuple[str, str]]) -> list[list[str]]:
    """Returns the rooms from the top to the bottom, each below all that import it; one without arrows is at the end."""
    above = {room: [one for one, other in arrows if other == room] for room in rooms}

    def floor(room: str) -> int:
        return 1 + max((floor(one) for one in above[room]), default=-1)

    floors: dict[int, list[str]] = collections.defaultdict(list)
    last = max(map(floor, rooms))
    for room in sorted(rooms):
        has_arrows = any(room in arrow for arrow in arrows)
        floors[floor(room) if has_arrows else last].append(room)
    return [floors[number] for number in range(last + 1)]


def picture() -> Figure:
    """Draws the rooms on floors, with arrows from each to those below that it imports.

    Arrows that follow from others, and those to what every room stands on, the ground below, are left out.
    """
    files = files_of_rooms()
    rooms = [room for room in files if room not in architecture.GROUND]
    drawn = without_detours([arrow for arrow in arrows() if set(arrow) <= set(rooms)])
    floors = floors_of(rooms, drawn)
    figure = Figure(figsize=(8.4, 7.4), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    places: dict[str, tuple[float, float]] = {}
    for floor, on_floor in enumerate(floors):
        middle = 0.0
        if len(on_floor) == 1:  # below those that import it
            above = [places[room][0] for room, other in drawn if other == on_floor[0]]
            middle = sum(above) / len(above) if above else 0.0
        for column, room in enumerate(on_floor):
            places[room] = (middle + 2.3 * (column - (len(on_floor) - 1) / 2), -1.15 * floor)
    for room, other in drawn:
        (x, y), (to_x, to_y) = places[room], places[other]
        style = {"arrowstyle": "-|>", "color": "#3f90da", "shrinkA": 0, "shrinkB": 0, "linewidth": 1.3}
        axes.annotate("", (to_x, to_y + 0.27), (x, y - 0.27), arrowprops=style, zorder=1)
    for room, (x, y) in places.items():
        axes.add_patch(_box(x - 1.0, y - 0.27, 2.0, 0.54, "white"))
        name = "command lines" if room == "scripts" else room.removeprefix("model.")
        number = f"\n{len(files[room])} files" if len(files[room]) > 1 else ""
        axes.text(x, y, f"{name}{number}", ha="center", va="center", fontsize=9, zorder=4)
    bottom = min(y for _, y in places.values()) - 1.1
    axes.add_patch(_box(-4.4, bottom - 0.3, 8.8, 0.6, "#eef2f6"))
    stands_on = [room for rooms in architecture.ROOMS for room in sorted(rooms) if room in architecture.GROUND]
    ground = ", ".join(room.removeprefix("model.") for room in stands_on)
    axes.text(
        0, bottom, f"the ground, which every room may import:\n{ground}", ha="center", va="center", fontsize=9, zorder=4
    )
    axes.set(xlim=(-4.6, 4.6), ylim=(bottom - 0.4, 0.4))
    return figure


def with_listing(page: str) -> str:
    """Returns the page with the list as the files are now."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"Expected the marks of the list in {PAGE}. Received: a file without them")
    return f"{before}{begin}\n{listing()}\n{end}{after}"


def main() -> None:
    """Writes both."""
    PAGE.write_text(with_listing(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    with matplotlib.rc_context({"svg.hashsalt": "rooms", "svg.fonttype": "path"}):
        picture().savefig(PICTURE, metadata={"Date": None})


def _box(x: float, y: float, width: float, height: float, color: str) -> FancyBboxPatch:
    style = "round,pad=0,rounding_size=0.1"
    return FancyBboxPatch((x, y), width, height, style, facecolor=color, edgecolor="#333333", linewidth=1, zorder=3)


if __name__ == "__main__":
    main()
