"""What the tests of new images share."""

import pytest

from model.training.estimator import Estimator


@pytest.fixture
def embedded(monkeypatch):
    """How many images the estimator embeds, call by call."""
    counts = []
    original = Estimator.predict

    def counting(self, input_fn, checkpoint_path=None):
        counts.append(len(input_fn()))
        return original(self, input_fn, checkpoint_path)

    monkeypatch.setattr(Estimator, "predict", counting)
    return counts
