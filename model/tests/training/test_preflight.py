"""What is said before a training is what then comes."""

import itertools
import re
import types

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

import train
from model.common import cli
from model.common.errors import UserError
from model.data import image_files, room, sampling
from model.data.input_fn import TrainInput, train_input_fn
from model.data.partition import divide
from model.params import Params
from model.start import start
from model.strategies import STRATEGIES
from model.tests.experiments import SMALL, digits, write_params
from model.tests.images import COLOUR, save
from model.training import preflight
from model.training.network import Size

pytestmark = pytest.mark.slow


def check(tmp_path, capsys, **changes):
    """What `train.py --check` prints."""
    model_dir = write_params(tmp_path, **changes)
    cli.run(train.main, "", ["--model_dir", str(model_dir), "--check"], add_options=train.add_options)
    return capsys.readouterr().out


def train_input(**changes):
    params = Params(**{**SMALL, **changes})
    return train_input_fn(divide(digits(), params), params)


def composition(**changes):
    return preflight.compose(train_input(**changes))


def test_a_p_x_k_batch():
    batch = composition(batch_size=64, num_classes_per_batch=8, num_images_per_class=8)
    assert batch == preflight.Composition(8.0, 0.0, 7.0, 56.0, 0.0, 0.0, 64 * 7 * 56, 1.0)


def test_a_batch_without_classes_is_drawn_without_replacement():
    """The number of positives of an anchor has a hypergeometric distribution."""
    _, sizes = np.unique(digits().train.labels, return_counts=True)
    others = scipy.stats.hypergeom(sizes.sum() - 1, sizes - 1, 11)
    share = sizes / sizes.sum()
    batch = composition(batch_size=12)
    assert batch.positives == pytest.approx(share @ others.mean(), rel=0.1)
    assert batch.negatives == pytest.approx(11 - batch.positives)
    assert batch.without_positive == pytest.approx(share @ others.pmf(0), rel=0.1)
    assert batch.without_negative == 0 and batch.teaches == 1


def test_copies_of_an_image_are_no_positives():
    """Classes of 1, 2 and 9 images in batches of 3 x 4, by loops over the images that differ."""
    labels = np.repeat(np.arange(3, dtype=np.int32), [1, 2, 9])
    batches = sampling.class_balanced_batches(labels, 1, 3, 4)
    batch = preflight.compose(TrainInput(np.zeros((12, 2, 2, 1), np.uint8), labels, batches, 12))
    assert batch.num_classes == 3 and batch.copies == pytest.approx(5 / 12)  # 1 + 2 + 4 different images
    images = [0, 1, 1, 2, 2, 2, 2]  # their classes
    positives = [sum(b == a for b in images) - 1 for a in images]
    assert batch.positives == pytest.approx(np.mean(positives)) and batch.without_positive == pytest.approx(1 / 7)
    assert batch.num_triplets == sum(p * sum(b != a for b in images) for a, p in zip(images, positives, strict=True))


def test_triplets_by_loops():
    data = train_input(batch_size=12)
    counts = []
    for step in range(200):
        labels = data.labels[data.batches(step)]
        triples = itertools.product(range(12), repeat=3)
        counts.append(sum(a != p and labels[a] == labels[p] and labels[a] != labels[n] for a, p, n in triples))
    assert preflight.compose(data).num_triplets == pytest.approx(np.mean(counts))


def test_check_says_what_comes_and_leaves_nothing_behind(tmp_path, capsys):
    lines = check(tmp_path, capsys, num_classes_per_batch=8, num_images_per_class=8).splitlines()
    assert lines[0] == (
        "Batches: 64 images of 8.0 classes; an anchor has 7.0 positives and 56.0 negatives, a batch 25,088 triplets."
    )
    steps, rate = re.fullmatch(r"Time: (\d+) steps of .* ms, ([\d,]+) images/s: about 00:\d\d, .*", lines[3]).groups()
    assert int(steps) == 45 and float(rate.replace(",", "")) > 10
    assert lines[1] == "Memory: the loss takes about 0.2 MB, the training images 0 MB."
    assert re.match(r"Memory: the network of [\d,]+ weights takes about ", lines[2]) and len(lines) == 4
    assert {path.name for path in tmp_path.iterdir()} == {"params.json", "train.log"}


def test_check_warns_of_batches_that_cannot_teach(tmp_path, capsys):
    lines = check(tmp_path, capsys, batch_size=4).splitlines()
    assert lines[1].startswith("Anchors without a positive: ")
    assert re.fullmatch(r"Warning: \d\d% of the images .* no positive .*; set num_classes_per_batch and .*", lines[2])
    # Four of ten classes of about the same size all differ with a probability of about 0.9 * 0.8 * 0.7.
    percent = re.fullmatch(r"Warning: (\d+)% of the batches have no triplet at all; raise batch_size\.", lines[3])
    assert float(percent[1]) == pytest.approx(50, abs=12)


def about(data, **params):
    """What is said of batches."""
    return list(preflight._about_batches(preflight.compose(data), Params(**params)))


def test_batches_with_a_memory_teach_whatever_is_in_them():
    lines = about(train_input(batch_size=4, memory_size=64), batch_size=4, memory_size=64)
    assert len(lines) == 1 and lines[0].startswith("Batches: 4 images")


def test_advice_on_copies_is_what_is_set():
    """Six images in batches of four: the second batch may hold two of the first epoch's and two of the next."""
    labels = np.arange(6, dtype=np.int32) % 2
    images = np.zeros((6, 2, 2, 1), np.uint8)
    uniform = TrainInput(images, labels, sampling.uniform_batches(labels, 0, 4), 4)
    _, warning, *_ = about(uniform, batch_size=4)
    assert warning.endswith("copies of other images in it, which teach nothing; lower batch_size or add images.")
    balanced = TrainInput(images, labels, sampling.class_balanced_batches(labels, 0, 2, 4), 8)
    _, warning, *_ = about(balanced, batch_size=8, num_classes_per_batch=2, num_images_per_class=4)
    assert warning.endswith("which teach nothing; lower num_images_per_class or add images.")


def test_check_of_mined_triplets(tmp_path, capsys):
    first, *_, last = check(tmp_path, capsys, triplet_strategy="offline_semi_hard", mining_size=640).splitlines()
    assert first == "Batches: 64 triplets, mined before the steps, 10 steps at a time."
    assert last.startswith("Time: ")


def test_check_of_more_than_there_is_memory_is_one_line(tmp_path, capsys, monkeypatch):
    def exhausted(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")

    monkeypatch.setattr(preflight, "seconds_per_step", exhausted)
    with pytest.raises(SystemExit) as raised:
        check(tmp_path, capsys)
    output = capsys.readouterr()
    assert raised.value.code == 2 and "OOM when allocating; lower batch_size" in output.err
    assert output.out.startswith("Batches: 64 images")  # what could be said


def test_check_decodes_no_image(tmp_path, capsys, monkeypatch):
    """120 colour images of 3000 x 3000 pixels, which would take 3.2 GB."""
    for i in range(120):
        save(tmp_path / f"data/class {i % 6}/{i}.png", COLOUR)
    monkeypatch.setattr(image_files, "_decode", None)
    monkeypatch.setattr(preflight, "free_memory", lambda: 2 * 10**9)
    monkeypatch.setattr(room, "memory_of_machine", lambda: 2 * 10**9)
    model_dir = write_params(tmp_path / "mine", dataset="mine", image_size=3000, validation_size=12, batch_size=16)
    options = ["--model_dir", str(model_dir), "--data_dir", str(tmp_path / "data"), "--check"]
    cli.run(train.main, "", options, add_options=train.add_options)
    lines = capsys.readouterr().out.splitlines()
    told = lines.index("Memory: the loss takes about 0.0 MB, the training images 2,268 MB.")
    assert lines[told + 1].startswith("Memory: the network of ")
    assert lines[-1].startswith("Warning: that is more than 50%")
    log = (model_dir / "train.log").read_text()
    assert "opened, not decoded" in log
    assert "3.2 GB, for which too little memory is free: they are decoded once and stored beside the data" in log
    assert not (tmp_path / "data/.decoded").exists()


def never():
    raise AssertionError("built")


def test_what_might_not_fit_is_not_built(monkeypatch):
    """Memory that is free is made up; 64 images of the default network put out about 0.05 GB with their gradients."""
    data = train_input(batch_size=64)
    for free, is_built in ((10**12, True), (10**6, False)):
        monkeypatch.setattr(preflight, "free_memory", lambda free=free: free)
        lines = preflight.check(data, Params(**SMALL), never)
        if is_built:
            with pytest.raises(AssertionError, match="built"):
                list(lines)
        else:
            *_, estimate, warning = lines
            assert re.match(r"Memory: the network of [\d,]+ weights takes about ", estimate)
            assert re.match("Warning: that is more than 50% of the 1 MB of free memory, so no step is timed", warning)


def test_a_dense_layer_of_billions_of_weights_is_one_line(monkeypatch):
    """348 x 348 pixels, halved once, with 64 channels: 174 * 174 * 64 * 4096 weights and 4096 biases."""
    monkeypatch.setattr(preflight, "free_memory", lambda: None)
    params = Params(num_blocks=1, num_channels=64, embedding_size=4096)
    labels = np.repeat(np.arange(2, dtype=np.int32), 2)
    batches = sampling.uniform_batches(labels, 0, 4)
    *_, warning = preflight.check(TrainInput(np.zeros((4, 348, 348, 1), np.uint8), labels, batches, 4), params, never)
    assert f"{174 * 174 * 64 * 4096 + 4096:,} of them in the last layer" in warning
    assert "lower image_size, num_channels or embedding_size, or raise num_blocks" in warning
    assert preflight.too_large(Params(), (28, 28, 1)) == ""


def test_what_a_network_does_not_have_is_no_advice(monkeypatch):
    monkeypatch.setattr(preflight, "size_of_network", lambda *_: Size(2**32, 100, 1))
    warning = preflight.too_large(Params(network="ResNet50"), (224, 224, 3))
    assert warning.endswith("lower image_size or embedding_size")


def test_a_network_that_no_memory_takes_is_not_trained(tmp_path, monkeypatch):
    model_dir = write_params(tmp_path, num_blocks=8, num_channels=16384)
    with pytest.raises(UserError, match=r"params.json: the network would have [\d,]{13,} weights"):
        start(model_dir).train()


def test_a_warm_up_without_an_end_is_not_trained_but_what_was_trained_with_it_opens(tmp_path, monkeypatch):
    warm = {"learning_rate_schedule": "cosine", "warmup_steps": 45}
    said = "'warmup_steps' must be fewer than the 45 steps of the training, received 45"
    runner = start(write_params(tmp_path, **warm))
    with pytest.raises(UserError, match=f"params.json: {said}"):
        runner.train()
    with pytest.raises(UserError, match=f"params.json: {said}"), runner.session():
        pytest.fail("it was begun")
    assert not list(tmp_path.glob("events*"))
    with monkeypatch.context() as changed:
        changed.setattr(preflight, "free_memory", lambda: 10**6)  # so that nothing is built
        assert f"Warning: {said}." in list(preflight.check(train_input(**warm), runner.experiment.params, never))
    learner = runner._estimator.new_learner(runner.experiment.train_input, 45)
    learner.state = learner.state.after_step(7)
    learner.save(tmp_path, keep=1)  # as an older version trained it
    assert start(tmp_path).trained().checkpoint.step == 7
    assert preflight.warm_up_too_long(Params(**{**warm, "warmup_steps": 44}), 45) == ""


@pytest.mark.parametrize(("seconds", "steps"), [(0.01, 23), (1.0, 4), (10.0, 2)])
@pytest.mark.parametrize("changes", [{}, {"triplet_strategy": "offline_hard"}])
def test_steps_are_timed_for_three_seconds_and_once_at_least(monkeypatch, seconds, steps, changes):
    clock, made = itertools.count(), []
    monkeypatch.setattr(preflight.time, "perf_counter", lambda: (next(clock) + 1) // 2 * seconds)

    def step(images, labels, batches, done, memory):
        row = batches[len(made) % steps - int(done)]
        assert row.numpy().tolist() == list(range(len(images))) and len(labels) == len(images) and memory is None
        made.append(len(images))
        return types.SimpleNamespace(sums={"loss": (0.5, 1.0)})

    monkeypatch.setattr(preflight, "compile_train_step", lambda *_, **__: step)
    data = train_input(batch_size=12, **changes)
    learner = types.SimpleNamespace(params=Params())
    assert preflight.seconds_per_step(data, learner, data.images_per_step) == pytest.approx(seconds)
    assert preflight.seconds_per_step(data, learner, 6) == pytest.approx(seconds * data.images_per_step / 6)
    assert made == [data.images_per_step] * steps + [6] * steps


def test_of_large_images_few_are_timed(monkeypatch):
    """64 images of 348 x 348 put out some GB, of which a few steps show as well how long they take."""
    labels = np.repeat(np.arange(8, dtype=np.int32), 8)
    batches = sampling.class_balanced_batches(labels, 0, 8, 8)
    timed = []
    monkeypatch.setattr(preflight, "seconds_per_step", lambda data, learner, count, _: timed.append(count) or 1.5)
    for side, free in ((348, 10**12), (96, 10**12), (348, None)):
        monkeypatch.setattr(preflight, "free_memory", lambda free=free: free)
        data = TrainInput(np.zeros((64, side, side, 3), np.uint8), labels, batches, 64)
        *_, line = preflight.check(data, Params(batch_size=64, num_epochs=2), lambda: None)
        assert line.startswith("Time: 2 steps of 1500.0 ms, 43 images/s: about 00:03, ")
        assert line.endswith(f"; measured with {timed[-1]} images.") == (timed[-1] < 64)
    few, *others = timed
    assert others == [64, 64] and few % 6 == 0 and few < 64
    size = preflight.size_of_network(Params(), (348, 348, 3))
    assert preflight.bytes_of_the_network(size, few) <= 2e9 < preflight.bytes_of_the_network(size, few + 6)


@pytest.mark.parametrize(("micro_batch_size", "devices"), [(16, 1), (None, 4), (16, 4), (64, 1)])
def test_those_few_fill_the_parts_of_each_device(micro_batch_size, devices):
    labels = np.repeat(np.arange(32, dtype=np.int32), 32)
    batches = sampling.class_balanced_batches(labels, 0, 32, 32)
    data = TrainInput(np.broadcast_to(np.uint8(0), (1024, 348, 348, 3)), labels, batches, 1024)
    params = Params(batch_size=1024, micro_batch_size=micro_batch_size)
    size = preflight.size_of_network(params, (348, 348, 3))
    few = preflight._images_to_time(size, data, params, "float32", devices)
    assert few < 1024 and few % (devices * (micro_batch_size or 1)) == 0 == few % 6


@pytest.mark.parametrize(("micro_batch_size", "devices"), [(None, 3), (2, 3), (2, 1), (None, 2)])
def test_those_few_cut_no_mined_triplet_apart(micro_batch_size, devices):
    labels = np.repeat(np.arange(36, dtype=np.int32), 36)
    data = TrainInput(np.broadcast_to(np.uint8(0), (1296, 348, 348, 3)), labels, never, 432, steps_per_mining=3)
    params = Params(batch_size=432, micro_batch_size=micro_batch_size, triplet_strategy="offline_hard")
    size = preflight.size_of_network(params, (348, 348, 3))
    few = preflight._images_to_time(size, data, params, "float32", devices)
    of_a_device = few // devices
    assert few < 1296 and few % devices == of_a_device % 3 == of_a_device % (micro_batch_size or 1) == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_memory_grows_with_the_pairs(strategy):
    sizes = [
        preflight.bytes_of_the_loss(Params(triplet_strategy=strategy, batch_size=size), 0) for size in (1024, 2048)
    ]
    assert sizes[1] == sizes[0] * (2 if strategy.startswith("offline") else 4) > 0


def test_class_vectors_take_memory_each():
    """26 bytes for each image, and for each dimension a float for itself, its gradient and the two of Adam."""
    params = Params(triplet_strategy="arcface", batch_size=200, embedding_size=32)
    sizes = [preflight.bytes_of_the_loss(params, num_classes) for num_classes in (1000, 3000)]
    assert sizes[1] - sizes[0] == 2000 * (200 * 26 + 32 * 4 * 4)


def test_the_memory_of_a_large_batch_is_that_of_a_block():
    sizes = [preflight.bytes_of_the_loss(Params(batch_size=size), 10) for size in (8192, 16384, 32768)]
    assert sizes[0] > sizes[1] == sizes[2] > 1e9
    with_memory = Params(batch_size=64, memory_size=960)
    assert preflight.bytes_of_the_loss(with_memory, 10) == 16 * preflight.bytes_of_the_loss(Params(batch_size=64), 10)


def test_steps_with_a_memory_and_in_parts_are_timed(tmp_path, capsys):
    """The memory is full, as it is after some steps."""
    said = check(tmp_path, capsys, memory_size=100, micro_batch_size=16)
    assert re.search(r"^Time: \d+ steps of [\d.]+ ms, .* not counted\.$", said, re.MULTILINE)
