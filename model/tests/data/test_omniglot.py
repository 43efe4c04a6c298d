"""Vinyals' split is links, by alphabets but for one, which is divided."""

import sys

import numpy as np
import pytest

from benchmarks import omniglot
from model.data.datasets import load
from model.tests.images import save


@pytest.fixture
def data(tmp_path):
    for part, character in (
        ("train/Greek", 1), ("train/Latin", 2), ("test/Angelic", 1), ("test/Tibetan", 3), ("test/ULOG", 42),
        ("test/Gurmukhi", 41), ("test/Gurmukhi", 42), ("test/Syriac_(Serto)", 7),
    ):  # fmt: skip
        for i in range(2):
            pixels = np.random.default_rng([character, i]).integers(0, 256, (5, 5), np.uint8)
            save(tmp_path / "omniglot" / part / f"character{character:02}" / f"{i}.png", pixels)
    return tmp_path


def test_characters_are_trained_on_or_tested(data, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["omniglot", str(data)])
    for _ in range(2):  # what is there already stays
        omniglot.main()
        assert "train: 4 characters" in capsys.readouterr().out
    split = load("omniglot_vinyals", data / "omniglot_vinyals")
    names = np.array(split.class_names)
    trained = {"Greek/character01", "Latin/character02", "Angelic/character01", "Gurmukhi/character41"}
    tested = {"Tibetan/character03", "ULOG/character42", "Gurmukhi/character42", "Syriac_(Serto)/character07"}
    assert set(names[split.train.labels]) == trained and set(names[split.test.labels]) == tested
    assert len(split.train.labels) == len(split.test.labels) == 8


def test_without_omniglot(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["omniglot", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        omniglot.main()
    assert ended.value.code == 2 and "expected train/ and test/" in capsys.readouterr().err
