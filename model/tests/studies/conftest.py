"""The script that stands for train.py in the tests of searches."""

import pytest

from model.studies import search
from model.tests.studies.searches import FAKE


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Puts the fake in the place of train.py; the seconds that it takes can be set."""
    path = tmp_path / "fake_train.py"

    def takes(seconds, script=FAKE):
        path.write_text(script.replace("SECONDS", str(seconds)))

    takes(0)
    monkeypatch.setattr(search, "_TRAIN", path)
    monkeypatch.setattr(search, "_SECONDS_BETWEEN_LOOKS", 0.02)
    return takes
