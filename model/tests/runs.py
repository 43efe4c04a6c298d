"""A folder of one-shot runs, and a file of pairs, of digits that a program draws."""

from model.tests.drawings import draw
from model.tests.images import save


def write_runs(folder, names=("run01", "run02"), digits=(0, 1, 4, 7), size=(24, 24)):
    """Runs in Lake's form: black on white, a drawing of each digit, and a thicker one to be recognized."""
    for name in names:
        lines = []
        for number, digit in enumerate(digits):
            test, shown = f"{name}/test/item{number:02}.png", f"{name}/training/class{digit:02}.png"
            save(folder / test, draw(digit, size, ink=0, paper=255, pen=0.16).convert("1"))
            save(folder / shown, draw(digit, size, ink=0, paper=255, pen=0.1).convert("1"))
            lines.append(f"{test} {shown}\n")
        (folder / name / "class_labels.txt").write_text("".join(lines))
    return folder
