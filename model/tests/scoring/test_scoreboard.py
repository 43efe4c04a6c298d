"""The table of scores, read as a person reads it."""

from model.scoring.protocol import HEADLINES
from model.scoring.scoreboard import tabulate


def scores(group="", value=0.5, count=4):
    found = {f"{group}{name}": value + i / 100 for i, name in enumerate(HEADLINES)}
    found |= {f"{name}_{end}95": v - 0.1 for name, v in list(found.items()) for end in ("low", "high")}
    return {f"{group}num_images": float(count), **found}


def test_one_block_for_all_classes():
    block, legend = tabulate({"loss": 0.1, **scores(count=12345)}, {}).split("\n\n")
    lines = block.splitlines()
    assert lines[0].split() == ["all", "classes,", "12,345", "images", "network", "95", "%", "interval"]
    assert lines[1].split() == ["knn_accuracy", "0.5000", "[0.4000,", "0.4000]"]
    assert [line.split()[0] for line in lines[1:]] == list(HEADLINES)
    assert legend.splitlines() == [f"{name}: {meaning}" for name, meaning in HEADLINES.items()]


def test_a_block_for_each_group_and_a_column_for_each_baseline():
    mine = scores() | scores("seen/") | scores("unseen/", 0.3)
    theirs = scores(value=0.2) | scores("seen/", 0.2) | scores("unseen/", 0.1)
    parts = tabulate(mine, {"raw_pixels": theirs, "pca": theirs}).split("\n\n")
    blocks = [block.splitlines() for block in parts[:-1]]
    assert [block[0].split()[0] for block in blocks] == ["all", "seen", "unseen"]
    assert blocks[0][0].split()[-2:] == ["raw_pixels", "pca"]
    assert blocks[2][1].split() == ["knn_accuracy", "0.3000", "[0.2000,", "0.2000]", "0.1000", "0.1000"]
    assert len({len(line) for block in blocks for line in block}) == 1  # the columns stand below each other


def test_what_is_not_defined_is_said():
    block, _ = tabulate({**scores(), "eer": float("nan"), "unseen/num_images": 0.0}, {}).split("\n\n")
    line = block.splitlines()[-1]
    assert line.split()[:2] == ["eer", "nan"]
