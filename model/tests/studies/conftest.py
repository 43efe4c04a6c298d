"""The script that stands for train.py in the tests of searches."""

import pytest

from model.studies import search
from model.tests.studies.searches import FAKE


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Puts the fake in the place of train.py; it can be another, and how many trials come to their end."""
    path = tmp_path / "fake_train.py"

    def put(script=FAKE, most=1_000):
        path.write_text(script.replace("MOST", str(most)))

    put()
    monkeypatch.setattr(search, "_TRAIN", path)
    monkeypatch.setattr(search, "_SECONDS_BETWEEN_LOOKS", 0.02)
    return put
