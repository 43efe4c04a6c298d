"""Vinyals' split of Omniglot, as links to the two sets of Lake and others.

    python -m benchmarks.omniglot [DATA]

makes the folder `omniglot_vinyals` in DATA (by default `data`), beside `omniglot` with its `train/` and `test/` of one
folder per alphabet. 1,200 characters are for training, 423 for the test: those of whole alphabets but for Gurmukhi,
41 of whose 45 characters are trained on and 4 tested. With `"rotated_classes": "all"` they are the 4,800 and 1,692
classes of Vinyals et al. (Matching Networks, 2016). The alphabets are those of the lists that Snell et al.
(Prototypical Networks, 2017) published, https://github.com/jakesnell/prototypical-networks, data/omniglot/splits.
"""

import argparse
import os
from pathlib import Path

# Of the alphabets in `test/`, those whose characters are trained on, and all others are tested.
TRAINED = ("Angelic", "Atemayar_Qelisayer", "Atlantean", "Aurek-Besh", "Avesta", "Ge_ez", "Glagolitic")
DIVIDED, NUM_TRAINED = "Gurmukhi", 41


def main() -> None:
    """Makes the links."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=Path("data"))
    data = parser.parse_args().data
    if not (data / "omniglot" / "train").is_dir() or not (data / "omniglot" / "test").is_dir():
        parser.error(
            f"{data / 'omniglot'}: not the two sets of Omniglot, expected train/ and test/; see data/README.md"
        )
    for part, count in link(data / "omniglot", data / "omniglot_vinyals").items():
        print(f"{data / 'omniglot_vinyals' / part}: {count:,} characters")


def link(omniglot: Path, split: Path) -> dict[str, int]:
    """Makes `train/` and `test/` of the split; returns how many characters each has."""
    counts = {"train": 0, "test": 0}
    for character in sorted(omniglot.glob("t*/*/*")):
        part, alphabet, name = character.parts[-3:]
        is_trained = part == "train" or alphabet in TRAINED
        if alphabet == DIVIDED:
            is_trained = int(name.removeprefix("character")) <= NUM_TRAINED
        into = split / ("train" if is_trained else "test") / alphabet / name
        into.parent.mkdir(parents=True, exist_ok=True)
        if not into.is_symlink():
            into.symlink_to(os.path.relpath(character, into.parent.resolve()))
        counts["train" if is_trained else "test"] += 1
    return counts


if __name__ == "__main__":
    main()
