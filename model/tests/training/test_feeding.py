"""What goes to the devices: every batch at its step, and none that is asked for before its time."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from model.common import devices
from model.common.errors import UserError
from model.common.images import StoredImages
from model.training.feeding import Feed, replicate, windows

pytestmark = pytest.mark.slow

ONE_DEVICE = tf.distribute.get_strategy()


def batch_of(step):
    """Four numbers that no other step has."""
    return np.arange(4, dtype=np.int32) + 4 * step


def fed(to_come, steps_per_mining=None, batch_of=batch_of):
    """Each step, and the batch that a training step takes: the row of the steps made since the upload."""
    for steps, indices, batches, done in windows(ONE_DEVICE, batch_of, to_come, steps_per_mining):
        assert batches.shape[0] == 64 and done.dtype == tf.int64  # always the same, so that nothing is compiled again
        np.testing.assert_array_equal(batches[: len(steps)], indices)
        for step in steps:
            yield step, batches[step - 1 - done].numpy()


@pytest.mark.parametrize("steps_per_mining", [None, 1, 7, 64, 100])
@pytest.mark.parametrize("to_come", [range(1, 2), range(1, 65), range(1, 66), range(38, 240), range(2**33, 2**33 + 70)])
def test_every_step_finds_its_batch(to_come, steps_per_mining):
    def small(step):
        return np.full(4, step % 1000, np.int32)

    found = list(fed(to_come, steps_per_mining, small))
    assert [step for step, _ in found] == list(to_come)
    for step, batch in found:
        assert batch.tolist() == small(step - 1).tolist() and batch.dtype == np.int32


def test_the_other_rows_hold_the_steps_around_it():
    ((_, _, batches, done),) = windows(ONE_DEVICE, batch_of, range(11, 14), None)
    assert int(done) == 10
    np.testing.assert_array_equal(batches, np.concatenate([[batch_of(n) for n in (10, 11, 12)], np.zeros((61, 4))]))


@pytest.mark.parametrize("first", [1, 2, 11, 63])
@pytest.mark.parametrize("steps_per_mining", [1, 10, 64, 100])
def test_no_round_is_mined_before_the_steps_before_it_are_made(first, steps_per_mining):
    made, asked = first - 1, []

    def mined(step):
        assert made >= step // steps_per_mining * steps_per_mining
        asked.append(step)
        return batch_of(step)

    for step, _ in fed(range(first, 171), steps_per_mining, mined):
        assert len(asked) <= step - (first - 1) + 63  # no more than an upload ahead
        made = step
    assert asked == list(range(first - 1, 170))  # each once


def test_nothing_is_asked_for_where_nothing_is_to_come():
    assert list(windows(ONE_DEVICE, pytest.fail, range(5, 5), None)) == []


def test_two_devices_share_each_batch_and_have_all_images(two_devices):
    strategy = two_devices
    for steps, _, batches, done in windows(strategy, batch_of, range(3, 70), 50):
        first, second = strategy.experimental_local_results(batches)
        for step in steps:
            row = step - 1 - int(done)
            assert [*first[row].numpy(), *second[row].numpy()] == batch_of(step - 1).tolist()
            assert len(first[row]) == len(second[row]) == 2
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1)
    for replica in strategy.experimental_local_results(replicate(strategy, images)):
        assert replica.dtype == tf.uint8
        np.testing.assert_array_equal(replica, images)


# ------------------------------------------------------------------------------------------------------- streamed

IMAGES = np.random.default_rng(0).integers(0, 256, (300, 2, 2, 1), np.uint8)


@pytest.fixture
def stored(tmp_path):
    (tmp_path / "pixels.u8").write_bytes(IMAGES.tobytes())
    return StoredImages(tmp_path / "pixels.u8", IMAGES.shape)


def random_batch(step):
    return np.random.default_rng(step).integers(0, len(IMAGES), 4).astype(np.int32)


@pytest.mark.parametrize("steps_per_mining", [None, 1, 3, 64])
def test_a_step_is_streamed_the_images_of_its_batch(stored, steps_per_mining):
    feed = Feed(ONE_DEVICE, stored)
    assert feed.streams
    steps = []
    for (step,), images, batches, done in feed.steps(random_batch, range(5, 150), steps_per_mining):
        assert batches[step - 1 - int(done)].numpy().tolist() == random_batch(step - 1).tolist()
        np.testing.assert_array_equal(images, IMAGES[random_batch(step - 1)])
        steps.append(step)
    assert steps == [*range(5, 150)]


def test_two_devices_are_streamed_their_parts(stored, two_devices):
    for (step,), images, _, _ in Feed(two_devices, stored).steps(random_batch, range(1, 70), None):
        first, second = (part.numpy() for part in two_devices.experimental_local_results(images))
        np.testing.assert_array_equal(np.concatenate([first, second]), IMAGES[random_batch(step - 1)])
        assert len(first) == len(second) == 2


@pytest.mark.parametrize("steps_per_mining", [1, 10, 64, 100])
def test_streaming_waits_for_the_steps_of_a_round_too(stored, steps_per_mining):
    made = 0

    def mined(step):
        assert made >= step // steps_per_mining * steps_per_mining
        return random_batch(step)

    for (step,), *_ in Feed(ONE_DEVICE, stored).steps(mined, range(1, 171), steps_per_mining):
        made = step
    assert made == 170


def test_few_batches_are_read_ahead(stored, monkeypatch):
    reads = []
    monkeypatch.setattr(StoredImages, "__getitem__", lambda _, index: reads.append(index) or IMAGES[index])
    for (step,), *_ in Feed(ONE_DEVICE, stored).steps(random_batch, range(1, 101), None):
        assert len(reads) <= step + 4
    assert len(reads) == 100


def test_what_goes_wrong_while_it_is_read_ends_the_run(stored):
    with stored.path.open("r+b") as file:
        file.truncate(0)
    with pytest.raises(UserError, match="damaged, it ends after"):
        list(Feed(ONE_DEVICE, stored).steps(random_batch, range(1, 5), None))


def test_a_run_that_stops_reads_no_more(stored):
    before = threading.active_count()
    fed = Feed(ONE_DEVICE, stored).steps(random_batch, range(1, 1001), None)
    next(fed)
    assert threading.active_count() == before + 1
    fed.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("free", "streams"), [(None, False), (4 * IMAGES.nbytes, False), (4 * IMAGES.nbytes - 4, True)]
)
def test_images_in_memory_are_resident_where_there_is_room_for_them_once_more(monkeypatch, free, streams):
    monkeypatch.setattr(devices, "memory_of_machine", lambda: free)
    feed = Feed(ONE_DEVICE, IMAGES)
    assert feed.streams == streams
    (_, images, batches, done), *_ = feed.steps(random_batch, range(1, 3), None)
    expected = IMAGES[random_batch(0)] if streams else IMAGES
    np.testing.assert_array_equal(images, expected)
    assert batches[0].numpy().tolist() == random_batch(0).tolist() and int(done) == 0
