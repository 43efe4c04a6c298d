"""The table of scores, read as a person reads it."""

from model.scoring.protocol import HEADLINES
from model.scoring.scoreboard import meanings, tables, tabulate


def scores(group="", value=0.5, count=4):
    found = {f"{group}{name}": value + i / 100 for i, name in enumerate(HEADLINES)}
    found |= {f"{name}_{end}95": v - 0.1 for name, v in list(found.items()) for end in ("low", "high")}
    return {f"{group}num_images": float(count), **found}


def sizes(group="", asked=4.0, left_out=0.0, gallery=100.0):
    names = ("knn_images", "knn_images_left_out", "knn_gallery_images")
    return {f"{group}{name}": size for name, size in zip(names, (asked, left_out, gallery), strict=True)}


def test_one_block_for_all_classes():
    block, legend = tabulate({"loss": 0.1, **scores(count=12345)}, {}).split("\n\n")
    lines = block.splitlines()
    assert lines[0] == "all classes, 12,345 images"
    assert lines[1].split() == ["network", "95", "%", "interval"]
    assert lines[2].split() == ["knn_accuracy", "0.5000", "[0.4000,", "0.4000]"]
    assert [line.split()[0] for line in lines[2:]] == list(HEADLINES)
    assert legend.splitlines() == [f"{name}: {meaning}" for name, meaning in HEADLINES.items()]


def test_the_same_as_tables():
    ((title, lines),) = found = tables(scores(count=12345), {"pca": scores(value=0.2)})
    assert title == "all classes, 12,345 images"
    assert lines[:2] == [
        ["", "network", "95 % interval", "pca"],
        ["knn_accuracy", "0.5000", "[0.4000, 0.4000]", "0.2000"],
    ]
    assert meanings(found) == HEADLINES


def test_scores_that_a_file_of_another_version_lacks_are_not_numbers():
    ((_, lines),) = tables({"num_images": 3.0, "knn_accuracy": 0.5}, {"pca": {}})
    assert lines[1] == ["knn_accuracy", "0.5000", "", "nan"] and lines[2][:2] == ["recall_at_1", "nan"]


def test_a_block_for_each_group_and_a_column_for_each_baseline():
    mine = scores() | scores("seen/") | scores("unseen/", 0.3)
    theirs = scores(value=0.2) | scores("seen/", 0.2) | scores("unseen/", 0.1)
    parts = tabulate(mine, {"raw_pixels": theirs, "pca": theirs}).split("\n\n")
    blocks = [block.splitlines() for block in parts[:-1]]
    assert [block[0].split()[0] for block in blocks] == ["all", "seen", "unseen"]
    assert blocks[0][1].split()[-2:] == ["raw_pixels", "pca"]
    assert blocks[2][2].split() == ["knn_accuracy", "0.3000", "[0.2000,", "0.2000]", "0.1000", "0.1000"]
    assert len({len(line) for block in blocks for line in block[1:]}) == 1  # the columns stand below each other


def test_the_sizes_of_the_galleries_are_told():
    few = scores("unseen/", count=20) | sizes("unseen/", 4, 0, 16)
    blocks = tabulate(scores() | sizes("", 3, 1, 1234) | scores("seen/") | sizes("seen/") | few, {}).split("\n\n")
    assert [block.splitlines()[0] for block in blocks[:-1]] == [
        "all classes, 4 images; knn_accuracy of 3 of them among 1,234 training images, "
        "without 1 images of classes that these lack",
        "seen classes, 4 images; knn_accuracy among 100 training images",
        "unseen classes, 20 images; knn_accuracy of 4 of them among 16 training images",
    ]


def test_queries_and_their_gallery_are_told():
    found = scores() | sizes() | {"num_queries": 1234.0, "num_gallery_images": 5678.0}
    assert tabulate(found, {}).splitlines()[0] == (
        "all classes, 4 images; 1,234 queries are looked up in 5,678 gallery images; "
        "knn_accuracy among 100 training images"
    )


def test_where_all_classes_are_unseen_they_are_one_block_without_a_nearest_training_image():
    nothing = scores() | scores("unseen/") | sizes("", 0, 4) | sizes("unseen/", 0, 4, 0) | {"seen/num_images": 0.0}
    block, _ = tabulate(nothing, {"pca": nothing}).split("\n\n")
    lines = block.splitlines()
    assert lines[0] == ("unseen classes, 4 images; no knn_accuracy, as the training images hold none of these classes")
    assert [line.split()[0] for line in lines[2:]] == [name for name in HEADLINES if name != "knn_accuracy"]


def test_what_is_not_defined_is_said():
    block, _ = tabulate({**scores(), "eer": float("nan"), "unseen/num_images": 0.0}, {}).split("\n\n")
    line = block.splitlines()[-1]
    assert line.split()[:2] == ["eer", "nan"]
